"""PAT for transformers: feature pyramid tokenization and open-vocabulary semantic segmentation on a frozen CLIP."""

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .configuration_pat import PatConfig
    from .image_processing_pat import PatImageProcessor
    from .image_processing_pil_pat import PatImageProcessorPil
    from .modeling_pat import PatForSemanticSegmentation, PatModel
    from .pipeline_pat import PatSegmentationPipeline
    from .processing_pat import PatProcessor

try:
    __version__ = version("transformers_pat")
except PackageNotFoundError:  # a checkout on the path, not installed
    __version__ = "0+unknown"

PAT_NANO = str(Path(__file__).parent / "pat_nano")
"""Path of the small checkpoint that comes with the package; good wherever a checkpoint's name is."""

MODULES = {
    "PatConfig": "configuration_pat",
    "PatForSemanticSegmentation": "modeling_pat",
    "PatImageProcessor": "image_processing_pat",
    "PatImageProcessorPil": "image_processing_pil_pat",
    "PatModel": "modeling_pat",
    "PatProcessor": "processing_pat",
    "PatSegmentationPipeline": "pipeline_pat",
}
__all__ = [
    "PAT_NANO",
    "PatConfig",
    "PatForSemanticSegmentation",
    "PatImageProcessor",
    "PatImageProcessorPil",
    "PatModel",
    "PatProcessor",
    "PatSegmentationPipeline",
    "__version__",
]


def __getattr__(name: str):
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = MODULES[name]
    if name == "PatImageProcessor" and find_spec("torchvision") is None:
        module, name = "image_processing_pil_pat", "PatImageProcessorPil"
    return getattr(importlib.import_module(f".{module}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _is_command() -> bool:
    """Whether the `transformers-pat` command is running: its `--help` must not wait for torch."""
    return Path(getattr(sys, "argv", None or [""])[0]).name in ("transformers-pat", "transformers-pat.exe")


if not _is_command():
    from .registration import register

    register()
    del register
