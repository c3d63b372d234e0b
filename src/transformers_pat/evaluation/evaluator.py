"""Segment a whole data set and score it, one photo at a time, in any number of processes."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..data.base import BadSampleError, SegmentationDataset
from ..modeling_pat import PatForSemanticSegmentation
from ..processing_pat import PatProcessor
from .metrics import Scores, SegmentationMetric, near_boundary
from .predictors import ClassPredictor, Predictor, Source, StoredCodes

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass
class PhotoScore:
    """Scores of one photo, 0 to 1; NaN and an empty `worst_class` if none of its pixels is labelled."""

    index: int
    file_name: str
    mean_iou: float  # over the classes in the mask
    pixel_accuracy: float
    worst_class: str  # the class in the mask with the lowest IoU


class EvaluationScores(Scores):
    """Scores over all pixels, and the mean IoU over those near boundaries."""

    boundary_mean_iou: float


@dataclass
class Evaluation:
    """Result of [`evaluate_dataset`]: counts of all pixels and of those near boundaries, and photos in their order."""

    metric: SegmentationMetric
    boundary_metric: SegmentationMetric
    names: list[str]
    photos: list[PhotoScore]

    def compute(self, classes: list[int] | None = None) -> EvaluationScores:
        """Compute all scores over all or the chosen classes, see [`SegmentationMetric.compute`]."""
        boundary = self.boundary_metric.compute(classes)
        return {**self.metric.compute(classes), "boundary_mean_iou": boundary["mean_iou"]}

    def worst(self, count: int) -> list[PhotoScore]:
        """The photos of lowest mean IoU, worst first, without those that have no labels."""
        scored = [photo for photo in self.photos if not math.isnan(photo.mean_iou)]
        return sorted(scored, key=lambda photo: photo.mean_iou)[:count]


def evaluate_dataset(
    model: PatForSemanticSegmentation,
    processor: PatProcessor,
    dataset: SegmentationDataset,
    prompts: list[str] | None = None,
    source: Source | Predictor | StoredCodes = "pixels",
    accelerator: "Accelerator | None" = None,
    workers: int = 1,
    progress: bool = True,
) -> Evaluation:
    """
    Segment every photo of a data set and compare with its masks.

    Args:
        model: The model, in eval mode.
        processor: Its processor.
        dataset: Photos with masks.
        prompts: Labels to use instead of `dataset.prompts`, as many.
        source: `"pixels"`, the model's forward pass; `"codes"`, segmentation from codes alone; `"training_free"`, the
            baseline without any training; your own function, see [`Predictor`]; or an archive's [`StoredCodes`].
        accelerator: Process p of N takes the photos p, p + N, ...; every process returns the same.
        workers: Worker processes that read photos, per process.
        progress: Whether the main process shows a progress bar.

    Raises:
        ValueError: If a photo or mask is not usable, or there are no masks.
    """
    predictor = ClassPredictor(model, processor, dataset, prompts, source)
    metric, boundary_metric = (SegmentationMetric(len(dataset.names), dataset.ignore_index) for _ in range(2))
    process, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    reader = _Reader(dataset, processor.image_processor, range(process, len(dataset), processes))
    loader = DataLoader(reader, batch_size=None, num_workers=workers)
    scores = []
    for item in tqdm(loader, disable=not progress or process > 0):
        if isinstance(item, Exception):
            raise item
        index, file_name, pixel_values, labels = item
        photo_metric = SegmentationMetric(metric.num_labels, metric.ignore_index)
        prediction, labels = predictor(pixel_values, tuple(labels.shape), file_name), labels.to(model.device)
        photo_metric.update(prediction, labels)
        metric.merge(photo_metric)
        boundary_metric.update(prediction, labels.where(near_boundary(labels), dataset.ignore_index))
        scores.append(score_photo(photo_metric, dataset.names, index, file_name))
    if accelerator:
        from accelerate.utils import gather_object  # of the extra `train`; not needed in a single process

        metric.reduce(accelerator)
        boundary_metric.reduce(accelerator)
        scores = sorted(gather_object(scores), key=lambda score: score.index)
    return Evaluation(metric, boundary_metric, dataset.names, scores)


class _Reader(Dataset):
    """Reads a photo with its mask and prepares it for the model, in the loader's worker processes."""

    def __init__(self, dataset: SegmentationDataset, image_processor, indices: range):
        self.dataset, self.image_processor, self.indices = dataset, image_processor, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[int, str, torch.Tensor, torch.Tensor] | ValueError:
        index = self.indices[position]
        try:
            sample = self.dataset[index]
        except BadSampleError as error:
            return error  # raised here, the loader would wrap it in the worker's traceback
        if sample.labels is None:
            return ValueError(f"{sample.file_name!r} has no mask to compare with")
        pixel_values = self.image_processor(images=[sample.image], return_tensors="pt").pixel_values
        return index, sample.file_name, pixel_values, torch.from_numpy(sample.labels)


def score_photo(metric: SegmentationMetric, names: list[str], index: int, file_name: str) -> PhotoScore:
    """Scores of the one photo that `metric` has counted."""
    scores = metric.compute()
    present = [label for label, pixels in enumerate(scores["per_class_pixels"]) if pixels]
    worst = names[min(present, key=lambda label: scores["per_class_iou"][label])] if present else ""
    return PhotoScore(index, file_name, scores["mean_iou"], scores["pixel_accuracy"], worst)
