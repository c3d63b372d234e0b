"""Makes transformers' Auto classes and pipelines know PAT. Remote code never needs this; importing the package does."""

from transformers import AutoConfig, AutoModel, AutoModelForSemanticSegmentation
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

from .configuration_pat import PatConfig
from .modeling_pat import PatForSemanticSegmentation, PatModel


def register() -> None:
    """Register PAT's classes; calling it again changes nothing."""
    AutoConfig.register("pat", PatConfig, exist_ok=True)
    AutoModel.register(PatConfig, PatModel, exist_ok=True)
    AutoModelForSemanticSegmentation.register(PatConfig, PatForSemanticSegmentation, exist_ok=True)
    # The stock image-segmentation pipeline looks the name up here and complains if it is absent.
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES["pat"] = "PatForSemanticSegmentation"
