"""Lets a saved folder carry its code, so that it loads with `trust_remote_code=True` where this package is absent."""

import shutil
from pathlib import Path

AUTO_MAP = {
    "AutoConfig": "configuration_pat.PatConfig",
    "AutoModel": "modeling_pat.PatModel",
    "AutoModelForSemanticSegmentation": "modeling_pat.PatForSemanticSegmentation",
    "AutoProcessor": "processing_pat.PatProcessor",
    "AutoImageProcessor": {
        "torchvision": "image_processing_pat.PatImageProcessor",
        "pil": "image_processing_pil_pat.PatImageProcessorPil",
    },
}

CUSTOM_PIPELINES = {
    "zero-shot-image-segmentation": {
        "impl": "pipeline_pat.PatSegmentationPipeline",
        "pt": ["AutoModelForSemanticSegmentation"],
        "type": "multimodal",
    }
}


def copy_code(folder: str | Path) -> None:
    """Copy the flat `*_pat.py` files beside the checkpoint; a model loaded as remote code has only those it needs."""
    for source in Path(__file__).parent.glob("*_pat.py"):
        target = Path(folder) / source.name
        if source.resolve() != target.resolve():
            shutil.copyfile(source, target)
