"""Which photos of an archive show something: all by tables, the best ones exactly by their codes."""

import hashlib
import heapq
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..image_io_pat import load_photo, to_rgb
from ..modeling_pat import PatForSemanticSegmentation
from ..processing_pat import PatProcessor
from ..prompts_pat import check_labels
from ..reconstruction import to_image
from .archive import TokenArchive
from .shards import TokenizedPhoto, to_photos, unpack_levels
from .tables import CodeTables, Scores
from .tokenizing import describe

FITTED_PHOTOS = 512  # to which the tables are fitted, spread over the archive
PHOTOS_AT_A_TIME = 64


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
            probability: (words and without,), the mean over the photo's places, 0 to 1.
            share: The part of the picture that each wins.
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
class Found:
    """
    A photo that a query found.

    Args:
        photo: The photo, with its codes.
        score: Mean probability of the word asked for (the least likely one with "all"), 0 to 1.
        shares: The part of the picture that each word of the query wins, 0 to 1.
    """

    photo: TokenizedPhoto
    score: float
    shares: dict[str, float]


class Searcher:
    """
    Searches an archive. What is not one of a query's words competes with them as the model's learned background.

    Args:
        archive: The archive.
        model, processor: The checkpoint that made its codes.
        workers: Threads.

    Raises:
        ArchiveError: If the codes are of another checkpoint.
        ValueError: If the archive is empty.
    """

    def __init__(
        self, archive: TokenArchive, model: PatForSemanticSegmentation, processor: PatProcessor, workers: int = 2
    ):
        archive.require(describe(model.pat, "the given checkpoint"))
        self.archive, self.model, self.processor, self.workers = archive, model, processor, workers
        self.tables = CodeTables.fit(model.pat, archive.info, self._sample())

    def _sample(self) -> Iterator[TokenizedPhoto]:
        """Photos from shards spread over the archive."""
        shards = self.archive.shards()
        chosen = shards[:: max(1, len(shards) // 8)]
        for shard in chosen:
            table = self.archive.read(shard)
            rows = np.linspace(0, table.num_rows, min(table.num_rows, FITTED_PHOTOS // len(chosen)), endpoint=False)
            yield from to_photos(table.take(rows.astype(int)), self.archive.info)

    @torch.inference_mode()
    def __call__(self, query: Query, exact: int = 200, progress: bool = False) -> list[Found]:
        """
        Rank all photos by tables, then the best `exact` of them by their exact masks.

        Raises:
            ArchiveError: If a shard is damaged.
            ValueError: If a word is too long.
        """
        text_embeds = self.text_embeds([*query.words, *query.without])
        best: list[tuple[float, int, int]] = []
        shards, scores = self.archive.shards(), self.tables.scores(text_embeds)
        with ThreadPoolExecutor(self.workers) as pool:
            ranked = pool.map(lambda number: self._rank(number, shards[number], query, scores), range(len(shards)))
            for candidates in tqdm(ranked, total=len(shards), unit="shard", disable=not progress):
                best = heapq.nlargest(max(exact, query.top), [*best, *candidates])
        return self._exact(best, shards, query, text_embeds)[: query.top]

    @torch.inference_mode()
    def _rank(self, number: int, shard: str, query: Query, scores: Scores) -> list[tuple[float, int, int]]:
        """(rank, −shard, −row) of the photos of one shard: equal ranks stay in the order of the archive."""
        table = self.archive.read(shard)
        scale, levels = float(self.model.logit_scale.exp()), range(len(self.archive.info.bits))
        sizes = np.stack([table.column(name).to_numpy() for name in ("grid_height", "grid_width")], axis=1)
        found = []
        for grid in np.unique(sizes, axis=0):
            rows = np.flatnonzero((sizes == grid).all(1))
            for start in range(0, len(rows), PHOTOS_AT_A_TIME):
                part = rows[start : start + PHOTOS_AT_A_TIME]
                patch_grid = (int(grid[0]), int(grid[1]))
                packed = [table.column(f"codes_{level}").take(part).to_pylist() for level in levels]
                unpacked = unpack_levels(packed, patch_grid, self.archive.info)
                codes = [torch.from_numpy(level.astype(np.int64)) for level in unpacked]
                logits = scale * self.tables.patch_scores(codes, scores, patch_grid)
                ranks = query.rank(logits.softmax(-1).mean(1)[:, :-1].numpy()).tolist()
                found += [(rank, -number, -int(row)) for rank, row in zip(ranks, part, strict=True)]
        return found

    def _exact(
        self, best: list[tuple[float, int, int]], shards: list[str], query: Query, text_embeds: torch.Tensor
    ) -> list[Found]:
        """The candidates by what `segment_codes` says of them, best first."""
        by_shard: dict[int, list[int]] = {}
        for _, number, row in best:
            by_shard.setdefault(-number, []).append(-row)
        found = []
        for number, rows in by_shard.items():
            table = self.archive.read(shards[number])
            for row, photo in zip(rows, to_photos(table.take(rows), self.archive.info), strict=True):
                places = self.segment(photo, text_embeds)[0].flatten(1).T
                share = torch.bincount(places.argmax(1), minlength=places.shape[1])[:-1] / len(places)
                score = query.score(places.softmax(1).mean(0)[:-1].numpy(), share.numpy())
                if score is not None:
                    shares = dict(zip([*query.words, *query.without], share.tolist(), strict=True))
                    found.append((score, -number, -row, Found(photo, score, shares)))
        return [one[-1] for one in sorted(found, key=lambda one: one[:3], reverse=True)]

    def text_embeds(self, words: list[str]) -> torch.Tensor:
        """Embeddings of words and of the learned background, (num_words + 1, projection_dim)."""
        return self.model.add_background(self.model.get_text_embeds(words, self.processor))

    def picture(self, photo: TokenizedPhoto) -> Image.Image:
        """The photo, if its file is still the one that was tokenised; else what its codes decode to."""
        try:
            content = Path(photo.source).read_bytes()
            if hashlib.sha256(content).digest() == photo.sha256:
                return to_rgb(load_photo(io.BytesIO(content)))
        except (OSError, ValueError):
            pass
        with torch.inference_mode():
            pixel_values = self.model.pat.decode(
                photo.to_tensors(), output_size=self.archive.info.pixels(photo.patch_grid)
            )
        return to_image(pixel_values[0], self.processor)

    def segment(self, photo: TokenizedPhoto, text_embeds: torch.Tensor) -> torch.Tensor:
        """Logits (1, num_labels, rows, columns) of a photo from its codes."""
        return self.model.segment_codes(photo.to_tensors(), text_embeds, self.archive.info.pixels(photo.patch_grid))
