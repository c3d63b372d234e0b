"""PAT for transformers: feature pyramid tokenization and open-vocabulary semantic segmentation on a frozen CLIP."""

from importlib.metadata import version
from pathlib import Path

from transformers.utils import is_torchvision_available

from .configuration_pat import PatConfig
from .image_processing_pil_pat import PatImageProcessorPil
from .modeling_pat import PatForSemanticSegmentation, PatModel
from .pipeline_pat import PatSegmentationPipeline
from .processing_pat import PatProcessor
from .registration import register

if is_torchvision_available():
    from .image_processing_pat import PatImageProcessor
else:
    PatImageProcessor = PatImageProcessorPil  # type: ignore[assignment, misc]

__version__ = version("transformers_pat")

PAT_NANO = str(Path(__file__).parent / "pat_nano")
"""Path of the small checkpoint that comes with the package; good wherever a checkpoint's name is."""

register()

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
