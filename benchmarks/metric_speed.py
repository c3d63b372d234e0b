"""The streaming metric against `evaluate`'s `mean_iou`: seconds and memory.

python benchmarks/metric_speed.py             20 maps of 2 megapixels, 150 classes
python benchmarks/metric_speed.py --maps 100  more of them
OMP_NUM_THREADS=1 python ...                  in one thread; numpy always counts in one
"""

import itertools
import multiprocessing
import resource
import tempfile
import time

import datasets
import evaluate
import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from transformers_pat.evaluation.hf_metric import StreamingMeanIoU
from transformers_pat.evaluation.metrics import SegmentationMetric

IGNORE_INDEX = 255


def published_mean_iou(predictions, references, num_labels, ignore_index):
    """`evaluate`'s definition, written from its documentation: histograms of each map, added; means leave out NaN."""
    areas = np.zeros((3, num_labels))
    for prediction, reference in zip(map(np.asarray, predictions), map(np.asarray, references), strict=True):
        counted = reference != ignore_index
        prediction, reference = prediction[counted], reference[counted]
        for area, ids in zip(areas, (prediction[prediction == reference], prediction, reference), strict=True):
            area += np.histogram(ids, bins=num_labels, range=(0, num_labels - 1))[0]
    intersection, predicted, true = areas
    with np.errstate(invalid="ignore"):
        iou, accuracy = intersection / (predicted + true - intersection), intersection / true
    return {
        "mean_iou": np.nanmean(iou),
        "mean_accuracy": np.nanmean(accuracy),
        "overall_accuracy": intersection.sum() / true.sum(),
        "per_category_iou": iou,
        "per_category_accuracy": accuracy,
    }


class PublishedMeanIoU(evaluate.Metric):
    """The definition inside `evaluate`, which writes every map to a file and reads them all to compute."""

    def _info(self):
        features = datasets.Features({"predictions": datasets.Image(), "references": datasets.Image()})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, num_labels, ignore_index):
        return published_mean_iou(predictions, references, num_labels, ignore_index)


def run_published(predictions, references, num_labels):
    with tempfile.TemporaryDirectory() as folder:
        metric = PublishedMeanIoU(cache_dir=folder)
        for prediction, reference in zip(predictions, references, strict=True):
            metric.add(prediction=prediction, reference=reference)
        return metric.compute(num_labels=num_labels, ignore_index=IGNORE_INDEX)["mean_iou"]


def run_definition(predictions, references, num_labels):
    return published_mean_iou(predictions, references, num_labels, IGNORE_INDEX)["mean_iou"]


def run_streaming(predictions, references, num_labels):
    metric = SegmentationMetric(num_labels, IGNORE_INDEX)
    for prediction, reference in zip(predictions, references, strict=True):
        metric.update(torch.from_numpy(prediction), torch.from_numpy(reference))
    return metric.compute()["mean_iou_with_absent"]


def run_streaming_evaluate(predictions, references, num_labels):
    with tempfile.TemporaryDirectory() as folder:
        metric = StreamingMeanIoU(num_labels, IGNORE_INDEX, cache_dir=folder)
        for prediction, reference in zip(predictions, references, strict=True):
            metric.add(prediction=prediction, reference=reference)
        return metric.compute()["mean_iou"]


METHODS = {
    "evaluate's mean_iou": run_published,
    "its definition on arrays": run_definition,
    "SegmentationMetric": run_streaming,
    "StreamingMeanIoU": run_streaming_evaluate,
}


def draw_maps(count: int, num_labels: int, piece: int, dtype: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """
    Predictions and references of 1000x2000 in squares of `piece` pixels; a tenth is ignored, some 70 % of the rest is
    right.
    """
    random = np.random.default_rng(0)
    enlarge = np.ones((piece, piece), dtype=dtype)
    predictions, references = [], []
    for _ in range(count):
        reference, prediction = random.integers(0, num_labels, (2, 1000 // piece, 2000 // piece))
        right, ignored = random.random((2, *reference.shape)) < [[[0.7]], [[0.1]]]
        predictions.append(np.kron(np.where(right, reference, prediction).astype(dtype), enlarge))
        references.append(np.kron(np.where(ignored, IGNORE_INDEX, reference).astype(dtype), enlarge))
    return predictions, references


def measure(method: str, count: int, num_labels: int, piece: int, dtype: str) -> tuple[float, float, float]:
    """Mean IoU, seconds, and MB of peak memory on top of the maps themselves."""
    predictions, references = draw_maps(count, num_labels, piece, dtype)
    METHODS[method](predictions[:1], references[:1], num_labels)  # warms up
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    score = METHODS[method](predictions, references, num_labels)
    seconds = time.perf_counter() - start
    return score, seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main(maps: int = 20, classes: int = 150) -> None:
    console = Console()
    # What mask files hold and what an argmax gives; noise, and squares as large as the things in photos.
    for dtype, piece in itertools.product(("uint8", "int64"), (1, 50)):
        title = f"{maps} maps of 2 megapixels, {dtype}, squares of {piece}x{piece}, {classes} classes, "
        title += f"{torch.get_num_threads()} threads"
        table = Table("", "mean IoU", "seconds", "ratio", "more MB", title=title)
        # A process each, because peak memory never falls.
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            rows = {method: pool.apply(measure, (method, maps, classes, piece, dtype)) for method in METHODS}
        for method, (score, seconds, memory) in rows.items():
            ratio = seconds / rows["SegmentationMetric"][1]
            table.add_row(method, f"{score:.4f}", f"{seconds:.3f}", f"{ratio:.1f}", f"{memory:.0f}")
        console.print(table)


if __name__ == "__main__":
    typer.run(main)
