"""The tables of the ablation, of the figures that recipes/pat_nano/ablation.py wrote."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from transformers_pat.evaluation.report import markdown_table as table

from ..splits import MEASURED

# Title -> row of the figures, and where its logits come from.
ROWS = {
    "training-free: CLIP's patch embeddings": ("pat", "training_free"),
    "baseline: `token_guidance=False`": ("baseline", "pixels"),
    "guided by CLIP's own embedding": ("dense_guidance", "pixels"),
    "the same, with a residual": ("dense_residual", "pixels"),
    "**PAT** without the residual": ("no_residual", "pixels"),
    "**PAT**": ("pat", "pixels"),
    "one level, stride 8": ("one_level", "pixels"),
    "loose coupling: masks do not move the codes": ("loose_coupling", "pixels"),
    "without the pixel branch": ("no_pixel_branch", "pixels"),
    "without the feature head": ("no_feature_head", "pixels"),
    "continuous features instead of codes": ("continuous", "pixels"),
    "PAT, from codes alone": ("pat", "codes"),
}
HELD_OUT_ROWS = {
    "baseline": "baseline_held_out",
    "guided by CLIP's own embedding, with a residual": "dense_residual_held_out",
    "**PAT** without the residual": "no_residual_held_out",
    "**PAT**": "pat_held_out",
}
LONG_ROWS = {"baseline": "baseline_long", "**PAT**": "pat_long"}
# What is compared with what: the gain of the first over the second.
COMPARISONS = {
    "PAT over the baseline": ("pat", "baseline"),
    "PAT without the residual over the baseline": ("no_residual", "baseline"),
    "PAT over the same guided by CLIP's own embedding": ("pat", "dense_residual"),
    "PAT without the residual over the same guided by CLIP's own embedding": ("no_residual", "dense_guidance"),
}
SETS = {name: f"{name} {split}" for name, split in MEASURED.items()}


class Ablation:
    """The figures of `path`, {row: {seed: {source: {set: scores}}}}."""

    def __init__(self, path: Path):
        self.rows: dict[str, dict[str, dict[str, dict]]] = json.loads(path.read_text(encoding="utf-8"))

    def results(self, row: str, source: str = "pixels") -> list[dict]:
        """Of all seeds that have them, in the order of the seeds."""
        seeds = sorted(self.rows.get(row, {}).items(), key=lambda item: int(item[0]))
        return [by_source[source] for _, by_source in seeds if source in by_source]

    def table(self, score: str) -> str:
        """Mean and standard deviation over seeds of "mean_iou" or "boundary_mean_iou", per set and of their mean."""
        rows = []
        for title, (row, source) in ROWS.items():
            if results := self.results(row, source):
                rows.append((title, *_cells(results, lambda of_set: of_set[score]), str(len(results))))
        return table(("", *SETS, "mean", "seeds"), rows)

    def held_out_table(self) -> str:
        """Classes that PAT's training never labelled, and the others, of a training without them."""
        rows = []
        for title, row in HELD_OUT_ROWS.items():
            results = self.results(row)
            for group in ("seen", "unseen") if results else ():
                cells = _cells(results, lambda of_set, group=group: of_set[group]["mean_iou"])
                rows.append((title, group, *cells, str(len(results))))
        return table(("", "classes", *SETS, "mean", "seeds"), rows)

    def long_table(self) -> str:
        """What the long trainings end with."""
        rows = [
            (title, *_cells(results, lambda of_set: of_set["mean_iou"]))
            for title, row in LONG_ROWS.items()
            if (results := self.results(row))
        ]
        return table(("", *SETS, "mean"), rows)

    def verdicts(self) -> str:
        """One sentence per comparison that both sides of which were trained: gain, spread, n, and where it loses."""
        lines = []
        for title, (row, other) in COMPARISONS.items():
            for score, name in (("mean_iou", "mIoU"), ("boundary_mean_iou", "boundary mIoU")):
                lines.append(self._verdict(f"{title}, {name}", row, other, lambda of_set, score=score: of_set[score]))
            unseen = (f"{row}_held_out", f"{other}_held_out")
            lines.append(
                self._verdict(f"{title}, unseen classes", *unseen, lambda of_set: of_set["unseen"]["mean_iou"])
            )
        return "\n".join(f"- {line}" for line in lines if line)

    def _verdict(self, title: str, row: str, other: str, score: Callable[[dict], float]) -> str:
        """Gains of equal seeds, so that what seeds share cancels out."""
        pairs = list(zip(self.results(row), self.results(other), strict=False))
        if not pairs:
            return ""
        gains = _scores([pair[0] for pair in pairs], score) - _scores([pair[1] for pair in pairs], score)
        spread = f" ± {gains[:, -1].std(ddof=1):.4f}" if len(gains) > 1 else ""
        means = dict(zip((*SETS, "mean"), gains.mean(0), strict=True))
        losing = [name for name in SETS if means[name] < 0]
        where = f"it loses on {' and '.join(losing)}" if losing else "it gains on every set"
        listed = ", ".join(f"{name} {_signed(means[name])}" for name in SETS)
        return f"{title}: **{_signed(means['mean'])}**{spread} (n = {len(gains)}); {where} ({listed})."


def _signed(gain: float) -> str:
    return f"{gain:+.4f}".replace("-", "−")


def _cells(results: list[dict], score: Callable[[dict], float]) -> list[str]:
    scores = _scores(results, score)
    spread = scores.std(0, ddof=1) if len(scores) > 1 else [None] * scores.shape[1]
    return [f"{m:.3f}" + ("" if s is None else f" ± {s:.3f}") for m, s in zip(scores.mean(0), spread, strict=True)]


def _scores(results: list[dict], score: Callable[[dict], float]) -> np.ndarray:
    """(seeds, sets and their mean)."""
    scores = np.array([[score(result[name]) for name in SETS.values()] for result in results])
    return np.concatenate([scores, scores.mean(1, keepdims=True)], axis=1)
