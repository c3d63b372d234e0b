"""Searching an archive by words: all photos by tables, the best ones exactly by their codes."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from heapq import nlargest

import numpy as np
import torch
from tqdm.auto import tqdm

from ..modeling_pat import PatForSemanticSegmentation
from ..processing_pat import PatProcessor
from .archive import TokenArchive
from .context import Context
from .query import Candidate, Query, ShardRanker
from .shards import TokenizedPhoto, to_photos
from .tables import CodeTables
from .tokenizing import describe

EXACT = 200  # photos that are looked at exactly
FITTED_PHOTOS = 256  # to which the tables are fitted, spread over the archive


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
    Searches an archive.

    A query's words compete for every place with each other, with common words that the archive's photos show
    ([`Context`]) and with the model's learned background.

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
        sample = list(self._sample())
        self.tables = CodeTables.fit(model.pat, archive.info, sample)
        self.context = Context.find(model, processor, self.tables, sample)

    def _sample(self) -> Iterator[TokenizedPhoto]:
        """Photos from shards spread over the archive."""
        shards = self.archive.shards()
        chosen = shards[:: max(1, len(shards) // 8)]
        for shard in chosen:
            table = self.archive.read(shard)
            rows = np.linspace(0, table.num_rows, min(table.num_rows, FITTED_PHOTOS // len(chosen)), endpoint=False)
            yield from to_photos(table.take(rows.astype(int)), self.archive.info)

    def __call__(self, query: Query, exact: int = EXACT, progress: bool = False) -> list[Found]:
        """
        Rank all photos by tables, then the best `exact` of them by their exact masks.

        Raises:
            ArchiveError: If a shard is damaged.
            ValueError: If a word is too long.
        """
        best = self.rank(query, max(exact, query.top), progress)
        return self.exact(best, query)[: query.top]

    def rank(self, query: Query, count: int, progress: bool = False) -> list[Candidate]:
        """The `count` photos that rank highest by tables, best first; may raise what [`__call__`] raises."""
        shards, ranker = self.archive.shards(), self.ranker(query, count)
        with ThreadPoolExecutor(self.workers) as pool:
            ranked = pool.map(lambda item: ranker(self.archive, *item), enumerate(shards))
            return best_of(tqdm(ranked, total=len(shards), unit="shard", disable=not progress), count)

    @torch.inference_mode()
    def ranker(self, query: Query, count: int) -> ShardRanker:
        """What ranks the photos of a shard for this query."""
        scores = self.tables.scores(self.text_embeds([*query.words, *query.without]))
        return ShardRanker(query, self.tables, scores, float(self.model.logit_scale.exp()), count)

    @torch.inference_mode()
    def exact(self, best: list[Candidate], query: Query) -> list[Found]:
        """The candidates that match by what `segment_codes` says of them, best first."""
        words = [*query.words, *query.without]
        shards, text_embeds = self.archive.shards(), self.text_embeds(words)
        by_shard: dict[int, list[int]] = {}
        for _, number, row in best:
            by_shard.setdefault(-number, []).append(-row)
        found = []
        for number, rows in by_shard.items():
            table = self.archive.read(shards[number])
            for row, photo in zip(rows, to_photos(table.take(rows), self.archive.info), strict=True):
                places = self.segment(photo, text_embeds)[0].flatten(1).T
                share = torch.bincount(places.argmax(1), minlength=places.shape[1])[: len(words)] / len(places)
                score = query.score(places.softmax(1).mean(0)[: len(words)].numpy(), share.numpy())
                if score is not None:
                    shares = dict(zip(words, share.tolist(), strict=True))
                    found.append((score, -number, -row, Found(photo, score, shares)))
        return [one[-1] for one in sorted(found, key=lambda one: one[:3], reverse=True)]

    def text_embeds(self, words: list[str]) -> torch.Tensor:
        """Embeddings of words and then of all that competes with them, (num_words and more, projection_dim)."""
        embeds = self.model.get_text_embeds(words, self.processor)
        return self.model.add_background(torch.cat([embeds, self.context.beside(embeds)]))

    def segment(self, photo: TokenizedPhoto, text_embeds: torch.Tensor) -> torch.Tensor:
        """Logits (1, num_labels, rows, columns) of a photo from its codes."""
        return self.model.segment_codes(photo.to_tensors(), text_embeds, photo.pixels)


def best_of(ranked: Iterable[list[Candidate]], count: int) -> list[Candidate]:
    """The `count` best candidates of all shards, best first."""
    best: list[Candidate] = []
    for candidates in ranked:
        best = nlargest(count, [*best, *candidates])
    return best
