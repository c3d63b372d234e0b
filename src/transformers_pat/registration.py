"""Makes transformers' Auto classes and pipelines know PAT. Remote code never needs this; importing the package does."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.utils import is_torchvision_available

from .configuration_pat import PatConfig
from .image_processing_pil_pat import PatImageProcessorPil
from .modeling_pat import PatForSemanticSegmentation, PatModel
from .processing_pat import PatProcessor


def register() -> None:
    """Register PAT's classes; calling it again changes nothing."""
    AutoConfig.register("pat", PatConfig, exist_ok=True)
    AutoModel.register(PatConfig, PatModel, exist_ok=True)
    AutoModelForSemanticSegmentation.register(PatConfig, PatForSemanticSegmentation, exist_ok=True)
    AutoProcessor.register(PatConfig, PatProcessor, exist_ok=True)
    image_processors = {"pil": PatImageProcessorPil}
    if is_torchvision_available():
        from .image_processing_pat import PatImageProcessor

        image_processors["torchvision"] = PatImageProcessor
    AutoImageProcessor.register(PatConfig, image_processor_classes=image_processors, exist_ok=True)
    # The stock image-segmentation pipeline looks the name up here and complains if it is absent.
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES["pat"] = "PatForSemanticSegmentation"
