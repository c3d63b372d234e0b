"""Search by class name: how well photos rank by tables, by exact codes and by pixels, and what each costs.

transformers-pat tokenize DATA/voc_animals/images --output archive
python benchmarks/archive_retrieval.py archive --data DATA/voc_animals --split val

Mean average precision over the class names; a photo is right if its mask has the class. Seconds are per photo for ten
words.
"""

import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from transformers_pat import PatForSemanticSegmentation
from transformers_pat.archive import Query, Searcher, TokenArchive
from transformers_pat.archive.query import ShardRanker
from transformers_pat.data.folder import FolderDataset
from transformers_pat.loading import load_checkpoint


def average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    hits = right[order]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def presence(logits: torch.Tensor) -> np.ndarray:
    """Mean probability of each word against the background alone, which comes last."""
    pairs = torch.stack([logits[:-1], logits[-1:].expand_as(logits[:-1])])
    return pairs.softmax(0)[0].mean((1, 2)).numpy()


@torch.inference_mode()
def main(
    archive: Annotated[Path, typer.Argument(help="Archive that has the photos of the data set.")],
    data: Annotated[Path, typer.Option(help="Data set: a folder of images, masks and splits.")],
    split: str = "val",
    every: Annotated[int, typer.Option(help="Take every n-th photo.")] = 1,
    model: str = "pat-nano",
    threads: int = 2,
) -> None:
    torch.set_num_threads(threads)
    segmenter, processor = load_checkpoint(PatForSemanticSegmentation, model)
    dataset = FolderDataset(data, split)
    searcher = Searcher(TokenArchive(archive), segmenter, processor)
    stored = {Path(photo.source).name: photo for photo in searcher.archive}
    names = dataset.names
    text_embeds = searcher.text_embeds(names)
    ten = searcher.text_embeds([*names, *(f"other {name}" for name in names)][:10])
    scores = {way: [] for way in ("tables", "codes", "pixels")}
    seconds = {way: [] for way in ("codes", "pixels")}
    right, files = [], []
    for index in tqdm(range(0, len(dataset), every)):
        sample = dataset[index]
        photo = stored[sample.file_name]
        files.append(photo.source)
        right.append([(sample.labels == label).any() for label in range(len(names))])
        pixel_values = processor(images=[sample.image], return_tensors="pt").pixel_values
        scores["codes"].append(presence(searcher.segment(photo, text_embeds)[0]))
        scores["pixels"].append(presence(segmenter(pixel_values, text_embeds=text_embeds).logits[0]))
        start = time.perf_counter()
        searcher.segment(photo, ten)
        middle = time.perf_counter()
        segmenter(pixel_values, text_embeds=ten)
        seconds["codes"].append(middle - start)
        seconds["pixels"].append(time.perf_counter() - middle)
    scores["tables"], per_photo = rank_by_tables(searcher, names, files)
    truth = np.array(right)
    occurring = truth.any(0)
    table = Table("ranking", "mAP", "ms per photo, ten words", title=f"{data.name} {split}: {len(files)} photos")
    medians = {"tables": per_photo, **{way: float(np.median(times)) for way, times in seconds.items()}}
    for way, found in scores.items():
        matrix = np.array(found)
        precisions = [average_precision(matrix[:, n], truth[:, n]) for n in np.flatnonzero(occurring)]
        table.add_row(way, f"{np.mean(precisions):.3f}", f"{1000 * medians[way]:.3f}")
    Console().print(table)


def rank_by_tables(searcher: Searcher, names: list[str], files: list[str]) -> tuple[np.ndarray, float]:
    """(photos, names) ranks as single-word queries give them, and the seconds per photo of a query for ten words."""
    archive = searcher.archive
    places = [photo.source for photo in archive]
    starts = np.cumsum([0, *(archive.read(shard).num_rows for shard in archive.shards())])
    scores = np.zeros((len(places), len(names)))
    for column, name in enumerate(names):
        for rank, shard, row in searcher.rank(Query([name]), len(places)):
            scores[starts[-shard] - row, column] = rank
    words = [*names, *(f"other {name}" for name in names)][:10]
    ranker: ShardRanker = searcher.ranker(Query(words), 200)
    start = time.perf_counter()
    for number, shard in enumerate(archive.shards()):
        ranker(archive, number, shard)
    seconds = (time.perf_counter() - start) / len(places)
    index_of = {source: index for index, source in enumerate(places)}
    return scores[[index_of[source] for source in files]], seconds


if __name__ == "__main__":
    typer.run(main)
