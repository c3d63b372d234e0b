"""Tokenise and rank as maps over parts and shards in Ray Data, on one machine or a cluster (extra `ray`)."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import ray
import torch
from ray.data import ActorPoolStrategy
from tqdm.auto import tqdm

from ..loading import load_checkpoint
from ..modeling_pat import PatModel
from .archive import TokenArchive
from .query import Candidate, Query, ShardRanker
from .search import Searcher, best_of
from .shards import ArchiveError
from .sources import PhotoSource, read_file
from .tokenizing import Part, Tokenizer, tokenize


def tokenize_with_ray(
    archive: TokenArchive,
    checkpoint: str,
    parts: Sequence[Part],
    batch_size: int = 8,
    workers: int = 2,
    read: PhotoSource = read_file,
) -> None:
    """
    Do all parts that are not done, in `workers` Ray actors; the shards are those of [`tokenize`].

    Ray restarts a worker that dies and gives its part to another. The archive's folder and the photos must be
    reachable from all machines.

    Raises:
        OSError: If shards can't be written.
    """
    arguments = (archive.path, checkpoint, batch_size, read)
    for row in _map([asdict(part) for part in parts], TokenizePart, arguments, workers, unit="part"):
        if row["error"]:
            raise OSError(row["error"])


def rank_with_ray(searcher: Searcher, query: Query, count: int) -> list[Candidate]:
    """What `searcher.rank` returns, computed in `searcher.workers` Ray actors; may raise what that raises."""
    items = [{"number": number, "shard": shard} for number, shard in enumerate(searcher.archive.shards())]
    arguments = (searcher.archive.path, searcher.ranker(query, count))
    rows = _map(items, RankShard, arguments, searcher.workers, unit="shard")
    return best_of(map(_read_candidates, rows), count)


def _read_candidates(row: dict[str, Any]) -> list[Candidate]:
    if row["error"]:
        raise ArchiveError(row["error"])
    return [(one["rank"], one["shard"], one["row"]) for one in row["candidates"]]


class TokenizePart:
    """One worker that tokenises: its model stays loaded from part to part."""

    def __init__(self, path: str, checkpoint: str, batch_size: int, read: PhotoSource):
        torch.set_num_threads(1)
        model, processor = load_checkpoint(PatModel, checkpoint)
        self.archive = TokenArchive(path)
        self.tokenizer = Tokenizer(model, processor.image_processor, batch_size, workers=1, read=read)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Do the part of one row."""
        part = Part(int(row["number"]), list(row["sources"]))
        try:
            tokenize(self.archive, self.tokenizer, [part], progress=False)
        except OSError as error:  # as a value: Ray would make a traceback of it
            return {"error": str(error)}
        return {"error": ""}


class RankShard:
    """One worker that ranks shards."""

    def __init__(self, path: str, ranker: ShardRanker):
        torch.set_num_threads(1)
        self.archive, self.ranker = TokenArchive(path), ranker

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Rank the shard of one row."""
        try:
            found = self.ranker(self.archive, int(row["number"]), str(row["shard"]))
        except ArchiveError as error:
            return {"error": str(error), "candidates": []}
        candidates = [{"rank": rank, "shard": shard, "row": place} for rank, shard, place in found]
        return {"error": "", "candidates": candidates}


def _map(
    items: list[dict[str, Any]], worker: Callable, arguments: tuple, workers: int, unit: str
) -> Iterator[dict[str, Any]]:
    """Rows that the workers return for the items, one item at a time, in no order."""
    if not items:
        return
    if not ray.is_initialized():  # joins a cluster if RAY_ADDRESS names one, else starts one on this machine
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.from_items(items, override_num_blocks=len(items)).map(
        worker, fn_constructor_args=arguments, compute=ActorPoolStrategy(size=min(workers, len(items)))
    )
    yield from tqdm(rows.iter_rows(), total=len(items), unit=unit)
