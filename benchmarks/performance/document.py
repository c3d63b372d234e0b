"""docs/performance.md and its curves, from the rows."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from transformers_pat.evaluation.report import markdown_table

from .timing import Row

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "images" / "performance.png"
PARTS = {
    "aims": "Segmentation against the bare CLIP, words encoded before",
    "peers": "Against other text-prompted segmenters of transformers",
    "codes": "Stored codes against pixels",
    "memory": "Peak memory of the whole process",
    "metric": "Metric",
    "training": "Training step",
    "start": "Start of the command line",
    "ways to compute": "Ways to compute",
    "size": "By size of the photo",
    "labels": "By number of labels",
    "batch": "By batch size",
    "ViT-L/14": "ViT-L/14",
}
INTRODUCTION = """# Performance

`make bench` wrote this file. Models other than pat-nano have random weights at their true size: that tells their
speed, not their quality. Ratios compare runs of the same process, in turns; seconds are medians. All models read words
that were encoded before, except SAM 3, which reads its words together with the photo.
"""


def write(rows: Sequence[Row], facts: str, path: Path) -> None:
    """Write the document; the picture lies beside it in images/."""
    parts = [INTRODUCTION]
    for part, title in PARTS.items():
        if own := [one for one in rows if one.part == part]:
            parts.append(f"## {title}\n\n{table(own)}")
    parts.insert(2, f"![Time against CLIP's by size and number of labels](images/{PICTURE.name})")
    parts.append(f"{facts}\n")
    path.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """One line per row."""
    return markdown_table(
        ("what", "against", "seconds", "ratio", "rounds", "aim"),
        [
            (one.what, one.against, "" if one.seconds is None else f"{one.seconds:.3g}",
             f"{one.ratio:.3g} {one.unit}", one.spread, one.aim)
            for one in rows
        ],
    )  # fmt: skip


def draw(rows: Sequence[Row], path: Path) -> None:
    """Two curves: the ratio to CLIP's forward by the photo's side, and by the number of labels."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    for axis, part, label in zip(
        axes, ("size", "labels"), ("side in pixels, 150 labels", "labels at 352 px"), strict=True
    ):
        own = [one for one in rows if one.part == part]
        axis.plot([one.x for one in own], [one.ratio for one in own], "o-", color="#0b5fa5")
        axis.axhline(1, color="#777777", linewidth=1)
        axis.set_xscale("log")
        axis.set_xticks([one.x for one in own], [f"{one.x:,.0f}" for one in own])
        axis.minorticks_off()
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("time / its CLIP's")
    axes[0].set_ylim(bottom=0)
    figure.suptitle("PAT with ViT-B/16 against CLIP's vision forward alone")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
