"""The picture of how PAT and the baseline learn in a long training."""

from pathlib import Path

from matplotlib.figure import Figure

from .ablation import SETS, Ablation

LINES = {"pat_long": ("PAT", "-"), "baseline_long": ("baseline", "--")}


def draw(ablation: Ablation, path: Path) -> None:
    """A panel per data set: mIoU by steps."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(SETS)), SETS.values(), strict=True):
        for row, (label, style) in LINES.items():
            for curves in ablation.results(row, "curve"):
                steps, scores = zip(*sorted((int(step), score) for step, score in curves[name].items()), strict=True)
                axes.plot(steps, scores, style, label=label, marker="o", markersize=3)
        axes.set_title(name)
        axes.set_xlabel("steps")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("mIoU")
    figure.axes[0].legend()
    figure.savefig(path, dpi=150)
