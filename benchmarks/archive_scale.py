"""Rank many archived photos by words: seconds, memory and bytes per photo.

transformers-pat tokenize "photos/**/*.jpg" --output archive
python benchmarks/archive_scale.py archive --photos 100000 --work big

The codes of the given archive are repeated with changes (shifted sideways, one code in twenty exchanged) until there
are enough; WORK keeps the result, so that a second call only measures.
"""

import resource
import time
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from tqdm import trange

from transformers_pat import PatForSemanticSegmentation
from transformers_pat.archive import Query, Searcher, TokenArchive, TokenizedPhoto
from transformers_pat.archive.shards import ArchiveInfo
from transformers_pat.loading import load_checkpoint

WORDS = "dog, cat, car, boat, sky, grass, person, chair, mountain, zebra crossing".split(", ")
PHOTOS_PER_SHARD = 1024
EXCHANGED = 0.05


def change(photo: TokenizedPhoto, number: int, info: ArchiveInfo) -> TokenizedPhoto:
    """Another photo with much the same codes."""
    rng = np.random.default_rng(number)
    levels = []
    for codes, size in zip(photo.codes, info.codebook_sizes, strict=True):
        shifted = np.roll(codes, rng.integers(codes.shape[1]), axis=1)
        levels.append(np.where(rng.random(codes.shape) < EXCHANGED, rng.integers(0, size, codes.shape), shifted))
    return replace(photo, source=f"{number:08d}.jpg", sha256=rng.bytes(32), codes=tuple(levels))


def grow(real: TokenArchive, path: Path, photos: int) -> TokenArchive:
    """An archive of at least `photos` changed copies of real ones."""
    archive = TokenArchive.create(path, real.info)
    originals = list(real)
    copies = (change(originals[number % len(originals)], number, real.info) for number in count())
    for number in trange(-(-photos // PHOTOS_PER_SHARD), unit="shard"):
        rows = list(islice(copies, PHOTOS_PER_SHARD)) if number not in archive.numbers() else None
        if rows:
            archive.write(number, rows)
    return archive


def main(
    archive: Annotated[Path, typer.Argument(help="Archive of real photos.")],
    work: Annotated[Path, typer.Option(help="Folder for the large archives.")],
    photos: Annotated[int, typer.Option(help="Photos to rank.")] = 100_000,
    model: str = "pat-nano",
    threads: int = 2,
) -> None:
    torch.set_num_threads(1)  # the searcher's threads work in parallel, a shard each
    segmenter, processor = load_checkpoint(PatForSemanticSegmentation, model)
    real = TokenArchive(archive)
    large = grow(real, work / str(photos), photos)
    searcher = Searcher(large, segmenter, processor, workers=threads)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    start = time.perf_counter()
    candidates = searcher.rank(Query(WORDS), 200)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    assert len(candidates) == 200
    total, size = len(large), sum(large.filesystem.size(shard) for shard in large.shards())
    Console().print(
        f"{total} photos, {len(WORDS)} words, {threads} threads: ranked in {seconds:.1f} s "
        f"({seconds / total * 1e6:.0f} s per million), peak {peak:.2f} GiB ({before:.2f} before), "
        f"{size / total:.0f} bytes per photo"
    )


if __name__ == "__main__":
    typer.run(main)
