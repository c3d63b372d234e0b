"""The model card that `push_to_hub` writes: the repository's `model_card.md`, filled with facts of the model."""

from pathlib import Path
from string import Template


def card_template() -> Path | None:
    """Where the template is: in the installed package, or at the root of a checkout; None for remote code."""
    here = Path(__file__).resolve().parent
    candidates = [here / "model_card.md", here.parents[1] / "model_card.md"]
    return next((path for path in candidates if path.is_file()), None)


def render_card(model, repo_id: str) -> str | None:
    """The card's text for `model`, or None where there is no template."""
    template = card_template()
    if template is None:
        return None
    config = model.config
    levels = zip(config.level_strides, config.codebook_sizes, config.feature_layers, strict=True)
    return Template(template.read_text(encoding="utf-8")).substitute(
        repo_id=repo_id,
        model_class=type(model).__name__,
        clip=config.clip_name_or_path or "not recorded",
        clip_saved="included" if config.clip_saved else "not included, fetched on load",
        trainable_millions=f"{model.num_trainable_parameters / 1e6:.2f}",
        total_millions=f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}",
        guidance="on" if config.token_guidance else "off (baseline)",
        levels="\n".join(
            f"| {index} | {stride:g} | {size} | {', '.join(map(str, layers))} |"
            for index, (stride, size, layers) in enumerate(levels)
        ),
    )
