"""Registers PAT with transformers' Auto classes and pipelines. The package calls this; remote code need not."""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForSemanticSegmentation,
    AutoProcessor,
)
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.utils import is_torchvision_available

from .configuration_pat import PatConfig
from .image_processing_pil_pat import PatImageProcessorPil
from .modeling_pat import PatForSemanticSegmentation, PatModel
from .pipeline_pat import PatSegmentationPipeline
from .processing_pat import PatProcessor
from .transformers_internals_pat import allow_stock_pipeline

if is_torchvision_available():
    from .image_processing_pat import PatImageProcessor
else:
    PatImageProcessor = PatImageProcessorPil  # type: ignore[assignment, misc]

TASK = "zero-shot-image-segmentation"


def register() -> None:
    """Register PAT's classes; calling it again changes nothing."""
    AutoConfig.register("pat", PatConfig, exist_ok=True)
    AutoModel.register(PatConfig, PatModel, exist_ok=True)
    AutoModelForSemanticSegmentation.register(PatConfig, PatForSemanticSegmentation, exist_ok=True)
    AutoImageProcessor.register(PatConfig, image_processor_classes=image_processors(), exist_ok=True)
    AutoProcessor.register(PatConfig, PatProcessor, exist_ok=True)
    allow_stock_pipeline("pat", "PatForSemanticSegmentation")
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=PatSegmentationPipeline,
            pt_model=AutoModelForSemanticSegmentation,
            type="multimodal",
        )


def image_processors() -> dict[str, type]:
    """The image processors that work here, by backend."""
    processors: dict[str, type] = {"pil": PatImageProcessorPil}
    return processors | ({"torchvision": PatImageProcessor} if is_torchvision_available() else {})
