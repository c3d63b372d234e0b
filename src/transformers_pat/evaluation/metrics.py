"""Segmentation metrics from one confusion matrix, whose memory does not grow with the number of images."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from accelerate import Accelerator

BLOCK_PIXELS = 2**17  # so that intermediate results fit into the CPU's cache
BOUNDARY_WIDTH = 0.01  # of the photo's diagonal; half of what Boundary IoU (arXiv 2103.16562) takes, our choice


class Scores(TypedDict):
    """Result of [`SegmentationMetric.compute`]."""

    mean_iou: float
    mean_iou_with_absent: float
    frequency_weighted_iou: float
    pixel_accuracy: float
    mean_accuracy: float
    per_class_iou: list[float]
    per_class_accuracy: list[float]
    per_class_pixels: list[int]


class SegmentationMetric:
    """
    Streaming mean IoU, frequency-weighted IoU and accuracies over a whole split.

    Args:
        num_labels: Number of classes.
        ignore_index: Label of pixels that are not counted; 0 or above.

    The attribute `confusion` holds the counts: (num_labels, num_labels) int64 on the CPU, true classes in rows and
    predicted classes in columns.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255):
        self.num_labels, self.ignore_index = num_labels, ignore_index
        self.confusion = torch.zeros(num_labels, num_labels, dtype=torch.int64)

    def update(self, prediction: torch.Tensor, labels: torch.Tensor) -> None:
        """
        Count one map, or several of the same size.

        Args:
            prediction: (H, W) or (batch, H, W) integers from 0 to `num_labels` - 1; any from 0 where the label is
                `ignore_index`.
            labels: Integers of the same shape and on the same device: classes or `ignore_index`.

        Raises:
            ValueError: If the shapes differ or an id is out of range.
        """
        if prediction.shape != labels.shape:
            raise ValueError(f"prediction is {tuple(prediction.shape)} but labels are {tuple(labels.shape)}.")
        # The first and the last row and column count ids below and above those of the classes.
        size = self.num_labels + 2
        pairs = torch.empty(
            labels.numel(), dtype=torch.int16 if size**2 <= 2**15 else torch.int32, device=labels.device
        )
        blocks = [tensor.flatten().split(BLOCK_PIXELS) for tensor in (labels, prediction, pairs)]
        ignored = 0
        for truth, guess, block_pairs in zip(*blocks, strict=True):
            truth, guess = _to_signed(truth), _to_signed(guess)
            ignored += truth.numel() - int((truth - self.ignore_index).count_nonzero())
            truth, guess = (ids.clamp(-1, self.num_labels).to(pairs.dtype) for ids in (truth, guess))
            torch.add(guess, truth, alpha=size, out=block_pairs).add_(size + 1)
        counts = torch.bincount(pairs, minlength=size**2).view(size, size).cpu()
        if counts[0].any() or counts[:, 0].any():
            lowest = min(int(labels.min()), int(prediction.min()))
            raise ValueError(f"prediction or labels hold id {lowest}; ids start at 0.")
        counts = counts[1:, 1:]
        if self.ignore_index < self.num_labels:
            counts[self.ignore_index], ignored = 0, 0
        allowed = f"0 to {self.num_labels - 1}"
        if int(counts[-1].sum()) != ignored:
            raise ValueError(f"labels hold other ids than {allowed} and {self.ignore_index}, the ignore_index.")
        if counts[:-1, -1].any():
            raise ValueError(f"prediction holds other ids than {allowed}.")
        self.confusion += counts[:-1, :-1]

    def merge(self, other: "SegmentationMetric") -> None:
        """Add what another metric of the same classes counted."""
        self.confusion += other.confusion

    def reduce(self, accelerator: "Accelerator") -> None:
        """Sum over all processes; call it once, when each has counted its own images."""
        self.confusion = accelerator.reduce(self.confusion.to(accelerator.device), "sum").cpu()

    def compute(self, classes: Sequence[int] | None = None) -> Scores:
        """
        Compute all scores, 0 to 1. A mean over nothing is NaN.

        Args:
            classes: Average over these classes only, and count only pixels whose true class is one of them.

        Returns:
            `mean_iou`: mean over the classes that occur in the ground truth (detectron2 since 2022, CAT-Seg's tables).
            `mean_iou_with_absent`: the same, where classes that are predicted but never true count as 0 (mmseg,
            `evaluate`'s `mean_iou`, SAN's paper). `frequency_weighted_iou`. `pixel_accuracy`. `mean_accuracy`: mean
            recall over the classes in the ground truth. For each class: `per_class_iou`, NaN if it is neither true nor
            predicted; `per_class_accuracy`, NaN if it is never true; `per_class_pixels`, its number of true pixels.
        """
        confusion = self.confusion.double()
        chosen = slice(None) if classes is None else list(classes)
        intersection, truth, guess = (v[chosen] for v in (confusion.diagonal(), confusion.sum(1), confusion.sum(0)))
        union = truth + guess - intersection
        iou, accuracy = intersection / union, intersection / truth
        present, total = truth > 0, truth.sum()
        return {
            "mean_iou": iou[present].mean().item(),
            "mean_iou_with_absent": iou[union > 0].mean().item(),
            "frequency_weighted_iou": ((truth * iou)[present].sum() / total).item(),
            "pixel_accuracy": (intersection.sum() / total).item(),
            "mean_accuracy": accuracy[present].mean().item(),
            "per_class_iou": iou.tolist(),
            "per_class_accuracy": accuracy.tolist(),
            "per_class_pixels": truth.long().tolist(),
        }


def _to_signed(ids: torch.Tensor) -> torch.Tensor:
    """The narrowest type that holds the ids and takes arithmetic."""
    if ids.dtype == torch.int64:  # what int32 does not hold would become another id
        ids = ids.clamp(-(2**31), 2**31 - 1)
    return ids.to(torch.int16 if ids.dtype == torch.uint8 else torch.int32)


def near_boundary(labels: torch.Tensor) -> torch.Tensor:
    """
    Find the pixels near a boundary between labels.

    Args:
        labels: (height, width) integers.

    Returns:
        (height, width) bool: whether another label is within `BOUNDARY_WIDTH` of the diagonal, in both axes.
    """
    edges = torch.zeros(labels.shape, device=labels.device)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edges[1:] += down
    edges[:-1] += down
    edges[:, 1:] += right
    edges[:, :-1] += right
    reach = round(BOUNDARY_WIDTH * math.hypot(*labels.shape))
    for kernel in ((2 * reach + 1, 1), (1, 2 * reach + 1)):  # a square window as two one-dimensional ones
        edges = F.max_pool2d(edges[None, None], kernel, 1, (kernel[0] // 2, kernel[1] // 2))[0, 0]
    return edges > 0
