"""Search by class name: how well photos rank by tables, by exact codes and by pixels, and what each costs.

transformers-pat tokenize DATA/voc_animals/images --output archive
python benchmarks/archive_retrieval.py archive --data DATA/voc_animals --split val

Mean average precision over the class names; a photo is right if its mask has the class. The names compete with each
other, unless each is a query of its own, and with what a searcher adds to every query. Times are per photo, for ten
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
from transformers_pat.data.folder import FolderDataset
from transformers_pat.loading import load_checkpoint


def average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    order = np.argsort(-scores, kind="stable")
    hits = right[order]
    return float((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())


def presence(logits: torch.Tensor, count: int) -> np.ndarray:
    """Mean probability of each of the first `count` words; (num_words, rows, columns) logits."""
    return logits.softmax(0)[:count].mean((1, 2)).numpy()


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
    words = [*names, *(f"other {name}" for name in names)][:10]
    ten = searcher.text_embeds(words)
    tables, per_photo = rank_by_tables(searcher, text_embeds, len(names)), time_of_tables(searcher, words)
    embeds = segmenter.get_text_embeds(names, processor)
    single = {
        "tables, a query per name": [searcher.text_embeds([name]) for name in names],
        "the same without competing words": [segmenter.add_background(embed[None]) for embed in embeds],
    }
    ranked = {way: [rank_by_tables(searcher, one, 1) for one in of_names] for way, of_names in single.items()}
    scores = {way: [] for way in ("tables", "codes", "pixels", *ranked)}
    seconds = {way: [] for way in ("codes", "pixels")}
    right = []
    for index in tqdm(range(0, len(dataset), every)):
        sample = dataset[index]
        photo = stored[sample.file_name]
        scores["tables"].append(tables[photo.source])
        for way, of_names in ranked.items():
            scores[way].append(np.concatenate([one[photo.source] for one in of_names]))
        right.append([(sample.labels == label).any() for label in range(len(names))])
        pixel_values = processor(images=[sample.image], return_tensors="pt").pixel_values
        scores["codes"].append(presence(searcher.segment(photo, text_embeds)[0], len(names)))
        scores["pixels"].append(presence(segmenter(pixel_values, text_embeds=text_embeds).logits[0], len(names)))
        start = time.perf_counter()
        searcher.segment(photo, ten)
        middle = time.perf_counter()
        segmenter(pixel_values, text_embeds=ten)
        seconds["codes"].append(middle - start)
        seconds["pixels"].append(time.perf_counter() - middle)
    truth = np.array(right)
    occurring = truth.any(0)
    table = Table("ranking", "mAP", "ms per photo, ten words", title=f"{data.name} {split}: {len(right)} photos")
    medians = {"tables": per_photo, **{way: float(np.median(times)) for way, times in seconds.items()}}
    for way, found in scores.items():
        matrix = np.array(found)
        precisions = [average_precision(matrix[:, n], truth[:, n]) for n in np.flatnonzero(occurring)]
        table.add_row(way, f"{np.mean(precisions):.3f}", f"{1000 * medians[way]:.3f}" if way in medians else "")
    Console().print(table)


def rank_by_tables(searcher: Searcher, text_embeds: torch.Tensor, count: int) -> dict[str, np.ndarray]:
    """{source: presence of each of the first `count` words}."""
    found = {}
    scores, scale = searcher.tables.scores(text_embeds), float(searcher.model.logit_scale.exp())
    for photo in searcher.archive:
        places = scale * searcher.tables.patch_scores(photo.to_tensors(), scores, photo.patch_grid)[0]
        found[photo.source] = presence(places.T[:, :, None], count)
    return found


def time_of_tables(searcher: Searcher, words: list[str]) -> float:
    """Seconds per photo of a query."""
    ranker, shards = searcher.ranker(Query(words), 200), searcher.archive.shards()
    start = time.perf_counter()
    for number, shard in enumerate(shards):
        ranker(searcher.archive, number, shard)
    return (time.perf_counter() - start) / len(searcher.archive)


if __name__ == "__main__":
    typer.run(main)
