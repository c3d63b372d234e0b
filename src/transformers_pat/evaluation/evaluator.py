"""Segment a whole data set and score it, one photo at a time, in any number of processes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..data.base import BadSampleError, Sample, SegmentationDataset
from ..outputs_pat import PatSegmentationOutput
from ..visualization import contact_sheet, overlay
from .metrics import SegmentationMetric

# A function of a model, pixel values and text embeddings returns an output with logits.
Source = Literal["pixels", "codes", "floor"] | Callable
SHEET_PHOTO_WIDTH = 400
BOUNDARY_WIDTH = 0.01  # of the photo's diagonal; half of what Boundary IoU (arXiv 2103.16562) takes, our choice


@dataclass
class PhotoScore:
    """Figures of one photo, 0 to 1, NaN if none of its pixels is labelled. `mean_iou`: over its true classes."""

    index: int
    file_name: str
    mean_iou: float
    pixel_accuracy: float
    worst_class: str


@dataclass
class Evaluation:
    """
    What [`evaluate_dataset`] returns: the filled metric, one of the pixels near boundaries alone, the classes' names,
    and a score per photo in their order.
    """

    metric: SegmentationMetric
    boundary_metric: SegmentationMetric
    names: list[str]
    photos: list[PhotoScore]

    def worst(self, count: int) -> list[PhotoScore]:
        """The photos of lowest mean IoU, worst first; those without labels are left out."""
        scored = [photo for photo in self.photos if not math.isnan(photo.mean_iou)]
        return sorted(scored, key=lambda photo: photo.mean_iou)[:count]


class ClassSegmenter:
    """
    From a photo to a map of a data set's classes.

    Args:
        model: A `PatForSemanticSegmentation` in eval mode.
        processor: Its `PatProcessor`.
        dataset: Whose classes to find.
        prompts: Words to ask with instead of `dataset.prompts`, as many.
        source: `"pixels"`; `"codes"`, from the tokens alone; `"floor"`, CLIP's patch embeddings without any training;
            or your own function of `model`, `pixel_values` and `text_embeds`, like [`from_codes`].
    """

    @torch.no_grad()
    def __init__(self, model, processor, dataset: SegmentationDataset, prompts=None, source: Source = "pixels"):
        self.model, self.processor, self.segment = model, processor, SEGMENTERS.get(source, source)
        self.text_embeds = model.get_text_embeds(prompts or dataset.prompts, processor)
        self.prompt_classes = torch.tensor(dataset.prompt_classes, device=model.device)

    @torch.no_grad()
    def __call__(self, pixel_values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(1, 3, H, W) to (height, width) int64 indices of classes; `size` is (height, width)."""
        outputs = self.segment(self.model, pixel_values.to(self.model.device), self.text_embeds)
        (prompt_map,) = self.processor.post_process_semantic_segmentation(outputs, target_sizes=[size])
        return self.prompt_classes[prompt_map]


def evaluate_dataset(
    model,
    processor,
    dataset: SegmentationDataset,
    prompts: list[str] | None = None,
    source: Source = "pixels",
    accelerator=None,
    workers: int = 1,
    progress: bool = True,
) -> Evaluation:
    """
    Segment every photo of a data set and compare with its masks.

    Args:
        model, processor, dataset, prompts, source: See [`ClassSegmenter`].
        accelerator: An `accelerate.Accelerator`. Process p of N takes the photos p, p + N, ...; each counts once, and
            every process returns the same.
        workers: Processes that read photos ahead, per process.
        progress: Whether to show a progress bar (on the main process).

    Raises:
        ValueError: If a photo or mask can't be used, or there are no masks.
    """
    segmenter = ClassSegmenter(model, processor, dataset, prompts, source)
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
        prediction, labels = segmenter(pixel_values, tuple(labels.shape)), labels.to(model.device)
        photo_metric.update(prediction, labels)
        metric.merge(photo_metric)
        boundary_metric.update(prediction, labels.where(near_boundary(labels), dataset.ignore_index))
        scores.append(score_photo(photo_metric, dataset.names, index, file_name))
    if accelerator:
        metric.reduce(accelerator)
        boundary_metric.reduce(accelerator)
        scores = sorted(gather_object(scores), key=lambda score: score.index)
    return Evaluation(metric, boundary_metric, dataset.names, scores)


class _Reader(Dataset):
    """What the loader's workers do: read a photo with its mask and prepare it for the model."""

    def __init__(self, dataset: SegmentationDataset, image_processor, indices: range):
        self.dataset, self.image_processor, self.indices = dataset, image_processor, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int):
        index = self.indices[position]
        try:
            sample = self.dataset[index]
        except BadSampleError as error:
            return error  # raised in a worker, its message would drown in a traceback
        if sample.labels is None:
            return ValueError(f"{sample.file_name!r} has no mask to compare with")
        pixel_values = self.image_processor(images=[sample.image], return_tensors="pt").pixel_values
        return index, sample.file_name, pixel_values, torch.from_numpy(sample.labels)


def near_boundary(labels: torch.Tensor) -> torch.Tensor:
    """Where a (height, width) label map has another label, or none, within `BOUNDARY_WIDTH`: a bool of its shape."""
    edges = torch.zeros(labels.shape, device=labels.device)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    for rows, columns, edge in (
        (slice(1, None), slice(None), down),
        (slice(None, -1), slice(None), down),
        (slice(None), slice(1, None), right),
        (slice(None), slice(None, -1), right),
    ):
        edges[rows, columns] += edge
    reach = round(BOUNDARY_WIDTH * math.hypot(*labels.shape))
    for kernel in ((2 * reach + 1, 1), (1, 2 * reach + 1)):  # a square, one side after the other
        edges = F.max_pool2d(edges[None, None], kernel, 1, (kernel[0] // 2, kernel[1] // 2))[0, 0]
    return edges > 0


def score_photo(metric: SegmentationMetric, names: list[str], index: int, file_name: str) -> PhotoScore:
    """The figures of the one photo that `metric` counted."""
    scores = metric.compute()
    true = [label for label, pixels in enumerate(scores["per_class_pixels"]) if pixels]
    worst = names[min(true, key=lambda label: scores["per_class_iou"][label])] if true else ""
    return PhotoScore(index, file_name, scores["mean_iou"], scores["pixel_accuracy"], worst)


def draw_worst(
    evaluation: Evaluation, dataset: SegmentationDataset, segmenter: ClassSegmenter, count: int
) -> Image.Image | None:
    """
    The photos of lowest mean IoU, segmented again: photo, ground truth and prediction side by side.

    Returns:
        The contact sheet; None if no photo has a labelled pixel.
    """
    rows = []
    for photo in evaluation.worst(count):
        caption = (
            f"{photo.file_name}: mean IoU {photo.mean_iou:.3f}, worst {photo.worst_class} | photo, truth, prediction"
        )
        rows.append((caption, _draw_row(dataset[photo.index], dataset, segmenter)))
    return contact_sheet(rows) if rows else None


def _draw_row(sample: Sample, dataset: SegmentationDataset, segmenter: ClassSegmenter) -> list[Image.Image]:
    pixel_values = segmenter.processor(images=[sample.image], return_tensors="pt").pixel_values
    height = max(1, round(SHEET_PHOTO_WIDTH * sample.image.height / sample.image.width))
    prediction = segmenter(pixel_values, (height, SHEET_PHOTO_WIDTH)).cpu().numpy()
    rows = np.arange(height) * sample.image.height // height
    columns = np.arange(SHEET_PHOTO_WIDTH) * sample.image.width // SHEET_PHOTO_WIDTH
    truth = sample.labels[np.ix_(rows, columns)]
    labels = [*dataset.names, "not labelled"]
    truth = np.where(truth == dataset.ignore_index, len(dataset.names), truth)
    photo = sample.image.resize((SHEET_PHOTO_WIDTH, height))
    return [photo, overlay(photo, truth, labels), overlay(photo, prediction, labels)]


def from_pixels(model, pixel_values: torch.Tensor, text_embeds: torch.Tensor):
    """The model as it is."""
    return model(pixel_values=pixel_values, text_embeds=text_embeds)


def from_codes(model, pixel_values: torch.Tensor, text_embeds: torch.Tensor, num_levels: int | None = None):
    """Encode, forget the image and all but the coarsest `num_levels` levels, segment."""
    codes = model.pat.encode(pixel_values).codes[:num_levels]
    return PatSegmentationOutput(logits=model.segment_codes(codes, text_embeds, tuple(pixel_values.shape[-2:])))


def from_clip(model, pixel_values: torch.Tensor, text_embeds: torch.Tensor):
    """Training-free: similarities of CLIP's dense patch embeddings."""
    dense = model.pat.extract_features(pixel_values).dense_embeds
    return PatSegmentationOutput(logits=model.logit_scale.exp() * (dense @ text_embeds.T).permute(0, 3, 1, 2))


# How each `source` turns an image into an output with logits.
SEGMENTERS = {"pixels": from_pixels, "codes": from_codes, "floor": from_clip}
