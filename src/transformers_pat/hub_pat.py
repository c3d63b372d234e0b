"""What a saved folder holds besides weights: the code for `trust_remote_code=True`, and the model card."""

import shutil
from pathlib import Path
from string import Template

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


def card_template() -> Path | None:
    """Find `model_card.md`: in the installed package, or at the root of a checkout; None for remote code."""
    here = Path(__file__).resolve().parent
    candidates = [here / "model_card.md", here.parents[1] / "model_card.md"]
    return next((path for path in candidates if path.is_file()), None)


def render_card(model, repo_id: str, clip_saved: bool) -> str | None:
    """
    Fill the model card's template with facts of a model.

    Args:
        model: A `PatModel` or `PatForSemanticSegmentation`.
        repo_id: Where it is published.
        clip_saved: Whether CLIP's weights are part of the checkpoint.

    Returns:
        The card's text, or None where there is no template.
    """
    template = card_template()
    if template is None:
        return None
    config = model.config
    levels = zip(config.level_strides, config.codebook_sizes, config.feature_layers, strict=True)
    return Template(template.read_text(encoding="utf-8")).substitute(
        repo_id=repo_id,
        model_class=type(model).__name__,
        clip=config.clip_name_or_path or "not recorded",
        clip_saved="included" if clip_saved else "not included, fetched on load",
        trainable_millions=f"{model.num_trainable_parameters / 1e6:.2f}",
        total_millions=f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}",
        guidance="on" if config.token_guidance else "off (baseline)",
        levels="\n".join(
            f"| {index} | {stride:g} | {size} | {', '.join(map(str, layers))} |"
            for index, (stride, size, layers) in enumerate(levels)
        ),
    )
