"""What to look for in an archive, and how the photos of one shard rank by the tables."""

from dataclasses import dataclass, field
from heapq import nlargest
from typing import Literal

import numpy as np
import torch

from ..prompts_pat import check_labels
from .archive import TokenArchive
from .shards import unpack_levels
from .tables import CodeTables, Scores

PHOTOS_AT_A_TIME = 64
# Rank, −shard, −row: of equal ranks, the photo that comes first in the archive is the larger one.
Candidate = tuple[float, int, int]


@dataclass
class Query:
    """
    What to look for.

    Args:
        words: What the photo shows: labels as for segmentation, `;` separating synonyms.
        match: Whether "any" of the words or "all" must be there.
        without: What it must not show.
        min_share: Smallest part of the picture that counts as there, 0 to 1.
        top: How many photos to return.
    """

    words: list[str]
    match: Literal["any", "all"] = "any"
    without: list[str] = field(default_factory=list)
    min_share: float = 0.01
    top: int = 20

    def __post_init__(self) -> None:
        check_labels([*self.words, *self.without])
        if not self.words:
            raise ValueError("a query needs at least one word")
        if not 0 <= self.min_share <= 1:
            raise ValueError(f"min_share must be between 0 and 1, got {self.min_share}")
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")

    def rank(self, probability: np.ndarray) -> np.ndarray:
        """
        Order photos by what the tables say: how likely what is wanted is, less how likely what is not.

        Args:
            probability: (photos, words and without), the mean over a photo's places, 0 to 1.
        """
        number = len(self.words)
        unwanted = probability[:, number:].max(1, initial=0.0)
        return self._combine(probability[:, :number]) - unwanted

    def score(self, probability: np.ndarray, share: np.ndarray) -> float | None:
        """
        Score a photo by its masks, 0 to 1; None if it does not match.

        Args:
            probability: (num_words,), of `words` and then `without`: the mean over the photo's places, 0 to 1.
            share: (num_words,), the part of the picture that each wins.
        """
        number = len(self.words)
        there = share >= self.min_share
        found = there[:number].any() if self.match == "any" else there[:number].all()
        # With a min_share of 0 everything is there: then what wins a place at all is unwanted.
        unwanted = (share[number:] >= max(self.min_share, 1e-9)).any()
        return float(self._combine(probability[:number])) if found and not unwanted else None

    def _combine(self, probability: np.ndarray) -> np.ndarray:
        return probability.max(-1) if self.match == "any" else probability.min(-1)


@dataclass
class ShardRanker:
    """
    Ranks photos by the tables, a shard at a time, in any thread or process.

    Args:
        query: What to look for.
        tables: The tables of the archive.
        scores: Those of the query's words and of what competes with them, see [`CodeTables.scores`].
        logit_scale: Factor of similarities before the softmax.
        count: How many photos to return per shard.
    """

    query: Query
    tables: CodeTables
    scores: Scores
    logit_scale: float
    count: int

    @torch.inference_mode()
    def __call__(self, archive: TokenArchive, number: int, shard: str) -> list[Candidate]:
        """
        The best photos of one shard, best first.

        Args:
            archive: The archive.
            number: Position of the shard in `archive.shards()`.
            shard: Its path.

        Raises:
            ArchiveError: If the shard is damaged.
        """
        table, levels = archive.read(shard), range(len(archive.info.bits))
        num_words = len(self.query.words) + len(self.query.without)
        heights, widths = (table.column(name).to_numpy() for name in ("grid_height", "grid_width"))
        columns = [table.column(f"codes_{level}").to_pylist() for level in levels]
        found: list[Candidate] = []
        for patch_grid in sorted(set(zip(heights.tolist(), widths.tolist(), strict=True))):
            rows = np.flatnonzero((heights == patch_grid[0]) & (widths == patch_grid[1])).tolist()
            for start in range(0, len(rows), PHOTOS_AT_A_TIME):
                part = rows[start : start + PHOTOS_AT_A_TIME]
                packed = [[column[row] for row in part] for column in columns]
                unpacked = unpack_levels(packed, patch_grid, archive.info)
                codes = [torch.from_numpy(level.astype(np.int32)) for level in unpacked]
                scores = self.tables.patch_scores(codes, self.scores, patch_grid).mul_(self.logit_scale)
                # A softmax over few words is six times as fast over the first dimension as over the last.
                places = scores.flatten(0, 1).T.contiguous().softmax(0)[:num_words]
                probability = places.unflatten(1, (len(part), -1)).mean(-1).T
                ranks = self.query.rank(probability.numpy()).tolist()
                found += [(rank, -number, -row) for rank, row in zip(ranks, part, strict=True)]
        return nlargest(self.count, found)
