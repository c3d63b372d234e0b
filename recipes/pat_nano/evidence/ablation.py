"""The tables of the ablation that recipes/pat_nano/ablation.py trained and evaluated."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from transformers_pat.evaluation.report import markdown_table as table

from ..splits import MEASURED

ROWS = {
    "training-free baseline: CLIP's patch embeddings": ("pat", "floor"),
    "baseline: `token_guidance=False`": ("baseline", "pixels"),
    "**PAT**": ("pat", "pixels"),
    "one level, stride 8": ("one_level", "pixels"),
    "tight coupling": ("tight_coupling", "pixels"),
    "without the pixel branch": ("no_pixel_branch", "pixels"),
    "without the feature head": ("no_feature_head", "pixels"),
    "continuous features instead of codes": ("continuous", "pixels"),
    "PAT, from codes alone": ("pat", "codes"),
}
SETS = {name: f"{name} {split}" for name, split in MEASURED.items()}


def read(folder: Path, variant: str, source: str) -> list[dict]:
    """Results of all seeds; [] where the variant was not trained."""
    paths = sorted(folder.glob(f"{variant}_[0-9]*/evaluation_{source}/results.json"))
    return [json.loads(path.read_text(encoding="utf-8"))["data"] for path in paths]


def ablation_table(folder: Path, figure: str) -> str:
    """Mean and standard deviation over seeds of "mean_iou" or "boundary_mean_iou", per set and of the sets' mean."""
    rows = []
    for title, (variant, source) in ROWS.items():
        if results := read(folder, variant, source):
            rows.append((title, *_cells(results, lambda of_set: of_set[figure]), str(len(results))))
    return table(("", *SETS, "mean", "seeds"), rows)


def held_out_table(folder: Path) -> str:
    """Classes that PAT's training never labelled, and the others, of a training without them."""
    rows = []
    for title, variant in (("baseline", "baseline_held_out"), ("**PAT**", "pat_held_out")):
        results = read(folder, variant, "pixels")
        for group in ("seen", "unseen") if results else ():
            rows.append((title, group, *_cells(results, lambda of_set, group=group: of_set[group]["mean_iou"])))
    return table(("", "classes", *SETS, "mean"), rows)


def verdict(folder: Path) -> str:
    """
    PAT's gain over the baseline, graded against the spread over seeds (the grades are our choice).

    "Consistent gain": the mean gain exceeds twice its spread, and no data set loses more than its own spread, neither
    over all classes nor over held-out ones. "Weak evidence": the mean gain exceeds its spread. Otherwise "no gain".
    """
    seeds = min(len(read(folder, name, "pixels")) for name in ("pat", "baseline"))
    gain, spread = _gain(folder, "", lambda of_set: of_set["mean_iou"])
    gain_unseen, spread_unseen = _gain(folder, "_held_out", lambda of_set: of_set["unseen"]["mean_iou"])
    loses = not ((gain >= -spread).all() and (gain_unseen >= -spread_unseen).all())
    grade = "no gain"
    if gain[-1] > spread[-1]:
        grade = "weak evidence" if loses or gain[-1] <= 2 * spread[-1] else "consistent gain"
    return (
        f"Mean gain of PAT over the baseline: {_signed(gain[-1])} (seed std {spread[-1]:.4f}, n = {seeds}): "
        f"**{grade}**. By data set: {_listed(gain, spread)}. Held-out classes: {_listed(gain_unseen, spread_unseen)}."
    )


def _gain(folder: Path, suffix: str, figure: Callable[[dict], float]) -> tuple[np.ndarray, np.ndarray]:
    pat, baseline = (_scores(read(folder, name + suffix, "pixels"), figure) for name in ("pat", "baseline"))
    return pat.mean(0) - baseline.mean(0), np.maximum(_spread(pat), _spread(baseline))


def _listed(gain: np.ndarray, spread: np.ndarray) -> str:
    """The gain on each data set, the spread in brackets."""
    return ", ".join(f"{name} {_signed(g)} ({s:.4f})" for name, g, s in zip(SETS, gain[:-1], spread[:-1], strict=True))


def _signed(gain: float) -> str:
    return f"{gain:+.4f}".replace("-", "−")


def _cells(results: list[dict], figure: Callable[[dict], float]) -> list[str]:
    scores = _scores(results, figure)
    spread = _spread(scores)
    return [f"{m:.3f}" + ("" if np.isnan(s) else f" ± {s:.3f}") for m, s in zip(scores.mean(0), spread, strict=True)]


def _scores(results: list[dict], figure: Callable[[dict], float]) -> np.ndarray:
    """(seeds, sets and their mean)."""
    scores = np.array([[figure(result[name]) for name in SETS.values()] for result in results])
    return np.concatenate([scores, scores.mean(1, keepdims=True)], axis=1)


def _spread(scores: np.ndarray) -> np.ndarray:
    return scores.std(0, ddof=1) if len(scores) > 1 else np.full(scores.shape[1], np.nan)
