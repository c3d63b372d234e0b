"""PAT for transformers: feature pyramid tokenization and open-vocabulary semantic segmentation on a frozen CLIP.

Importing the package loads neither torch nor transformers. The first use of any name below does, and registers PAT
with transformers' Auto classes and pipelines. Where these are loaded already, the import registers PAT at once.
"""

import importlib
import importlib.metadata
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .configuration_pat import PatConfig
    from .image_processing_pat import PatImageProcessor
    from .image_processing_pil_pat import PatImageProcessorPil
    from .modeling_pat import PatForSemanticSegmentation, PatModel
    from .pipeline_pat import PatSegmentationPipeline
    from .processing_pat import PatProcessor

    __version__: str
    PAT_NANO: str
    """Path of the small checkpoint that comes with the package; good wherever a checkpoint's name is."""

__all__ = [
    "PAT_NANO",
    "PatConfig",
    "PatForSemanticSegmentation",
    "PatImageProcessor",
    "PatImageProcessorPil",
    "PatModel",
    "PatProcessor",
    "PatSegmentationPipeline",
]


def __getattr__(name: str):
    if name == "__version__":
        return importlib.metadata.version(__name__)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    registration = importlib.import_module(".registration", __name__)
    registration.register()
    value = str(Path(__file__).parent / "pat_nano") if name == "PAT_NANO" else getattr(registration, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *__all__, "__version__"]


if "transformers.models.auto.modeling_auto" in sys.modules:
    importlib.import_module(".registration", __name__).register()
