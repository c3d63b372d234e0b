"""Results of evaluations as tables and files: results.json, results.md, per_image.csv, worst.png."""

import csv
import json
import math
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from rich.table import Table

from .. import __version__
from ..data.base import Sample, SegmentationDataset
from ..visualization import contact_sheet, overlay
from .evaluator import Evaluation
from .predictors import ClassPredictor

# Scores in tables, and their titles.
SHOWN = {
    "mean_iou": "mIoU",
    "mean_iou_with_absent": "mIoU, absent as 0",
    "frequency_weighted_iou": "weighted IoU",
    "pixel_accuracy": "pixel accuracy",
    "boundary_mean_iou": "boundary mIoU",
}
SCORES = (*SHOWN, "mean_accuracy")
NOTES = {
    "mean_iou": "over classes that occur in the ground truth (the default)",
    "mean_iou_with_absent": "classes that are predicted but never true count as 0",
    "boundary_mean_iou": "over the pixels within 1 % of the photo's diagonal of a boundary between labels",
}
SOURCES = {
    "pixels": "from pixels",
    "codes": "from codes alone",
    "training_free": "training-free baseline",
    "archive": "from an archive's codes",
}
WORST_PHOTOS = 12
SHEET_PHOTO_WIDTH = 400


def summarize(evaluation: Evaluation, seen: set[str] | None = None) -> dict[str, Any]:
    """All scores of one data set; given the words `seen` in training, also those of seen and unseen classes."""
    scores = evaluation.compute()
    columns = (scores["per_class_iou"], scores["per_class_accuracy"], scores["per_class_pixels"])
    classes: list[dict[str, Any]] = [
        {"name": name, "iou": iou, "accuracy": accuracy, "pixels": pixels}
        for name, iou, accuracy, pixels in zip(evaluation.names, *columns, strict=True)
    ]
    summary = {"photos": len(evaluation.photos), **_select(scores), "classes": classes}
    if seen is not None:
        for row in classes:  # a class is seen if one of its synonyms is
            row["seen"] = bool(split_synonyms(row["name"]) & seen)
        for group, wanted in (("seen", True), ("unseen", False)):
            chosen = [index for index, row in enumerate(classes) if row["seen"] == wanted]
            summary[group] = {"classes": len(chosen), **_select(evaluation.compute(chosen))}
    return summary


def split_synonyms(name: str) -> set[str]:
    """The words of a class name such as "car;automobile", in lower case."""
    return {synonym.strip().lower() for synonym in name.split(";")}


def _select(scores: Any) -> dict[str, float]:
    return {key: scores[key] for key in SCORES}


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Versions and hardware that a result was computed with."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {device.type}"
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {"transformers": transformers.__version__, "transformers_pat": __version__}
    machine = {"system": platform.system(), "device": name, "threads": torch.get_num_threads()}
    return {"versions": versions, "machine": machine}


def result_rows(results: dict[str, dict[str, Any]]) -> list[list[str]]:
    """A row per data set and group of classes: name, photos and the scores of `SHOWN`."""
    rows = []
    for name, result in results.items():
        rows.append([name, str(result["photos"]), *(f"{result[key]:.3f}" for key in SHOWN)])
        for group in ("seen", "unseen"):
            if group in result:
                label = f"  {result[group]['classes']} {group}"
                rows.append([label, "", *(f"{result[group][key]:.3f}" for key in SHOWN)])
    return rows


def result_table(title: str, results: dict[str, dict[str, Any]]) -> Table:
    """The scores of each data set, for the terminal."""
    table = Table("data", "photos", *SHOWN.values(), title=title)
    table.caption = "mIoU: over classes in the ground truth (the default); boundary: of pixels near one"
    for row in result_rows(results):
        table.add_row(*row)
    return table


def class_table(name: str, result: dict[str, Any]) -> Table:
    """The scores of each class of a data set, for the terminal."""
    total = sum(row["pixels"] for row in result["classes"])
    table = Table("class", "IoU", "accuracy", "share of pixels", title=name)
    for row in result["classes"]:
        share = row["pixels"] / total if total else math.nan
        table.add_row(row["name"], f"{row['iou']:.3f}", f"{row['accuracy']:.3f}", f"{share:.2%}")
    return table


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write_report(path: Path, record: dict[str, Any], title: str, tables: Sequence[str]) -> None:
    """
    Write a record as JSON, with null for NaN, and its tables as Markdown beside it.

    The record needs `command` and what [`describe_machine`] returns; both files name them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_nan_to_none(record), indent=2, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    machine = ", ".join(f"{name}: {value}" for name, value in record["machine"].items())
    notes = [f"`{record['command']}` wrote this file.", f"{versions}; {machine}."]
    path.with_suffix(".md").write_text("\n\n".join([f"# {title}", *tables, *notes]) + "\n", encoding="utf-8")


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nan_to_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_nan_to_none(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_photos(
    folder: Path, evaluation: Evaluation, dataset: SegmentationDataset, predictor: ClassPredictor
) -> None:
    """Write `per_image.csv`, a row per photo, and `worst.png`, the photos of lowest mean IoU."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "per_image.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "mean_iou", "pixel_accuracy", "worst_class"])
        for photo in evaluation.photos:
            writer.writerow([photo.file_name, photo.mean_iou, photo.pixel_accuracy, photo.worst_class])
    if evaluation.worst(1):
        draw_worst(evaluation, dataset, predictor, WORST_PHOTOS).save(folder / "worst.png")


def draw_worst(
    evaluation: Evaluation, dataset: SegmentationDataset, predictor: ClassPredictor, count: int
) -> Image.Image:
    """Segment the photos of lowest mean IoU again, and draw photo, ground truth and prediction side by side."""
    rows = []
    for photo in evaluation.worst(count):
        scores = f"{photo.file_name}: mean IoU {photo.mean_iou:.3f}, worst {photo.worst_class}"
        rows.append((f"{scores} | photo, truth, prediction", _draw_row(dataset[photo.index], dataset, predictor)))
    return contact_sheet(rows)


def _draw_row(sample: Sample, dataset: SegmentationDataset, predictor: ClassPredictor) -> list[Image.Image]:
    assert sample.labels is not None  # only photos with masks are scored
    pixel_values = predictor.processor(images=[sample.image], return_tensors="pt").pixel_values
    height = max(1, round(SHEET_PHOTO_WIDTH * sample.image.height / sample.image.width))
    prediction = predictor(pixel_values, (height, SHEET_PHOTO_WIDTH), sample.file_name).cpu().numpy()
    rows = np.arange(height) * sample.image.height // height
    columns = np.arange(SHEET_PHOTO_WIDTH) * sample.image.width // SHEET_PHOTO_WIDTH
    truth = sample.labels[np.ix_(rows, columns)]
    labels = [*dataset.names, "not labelled"]
    truth = np.where(truth == dataset.ignore_index, len(dataset.names), truth)
    photo = sample.image.resize((SHEET_PHOTO_WIDTH, height))
    return [photo, overlay(photo, truth, labels), overlay(photo, prediction, labels)]
