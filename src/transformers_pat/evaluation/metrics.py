"""Segmentation metrics from one confusion matrix, whose memory does not grow with the number of images."""

from collections.abc import Sequence

import torch

BLOCK_PIXELS = 2**17  # what is computed on the way stays in the processor's cache


class SegmentationMetric:
    """
    Streaming mean IoU, frequency-weighted IoU and accuracies over a whole split.

    Args:
        num_labels: Number of classes.
        ignore_index: Label whose pixels count nowhere, neither as truth nor as false alarm; 0 or above.

    The attribute `confusion` holds the counted pixels: (num_labels, num_labels) int64 on the CPU, a row per true and a
    column per predicted class.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255):
        self.num_labels, self.ignore_index = num_labels, ignore_index
        self.confusion = torch.zeros(num_labels, num_labels, dtype=torch.int64)

    def update(self, prediction: torch.Tensor, labels: torch.Tensor) -> None:
        """
        Count one map, or several of the same size.

        Args:
            prediction, labels: Integer maps of the same shape, on the same device. Ids are below `num_labels`; labels
                may be `ignore_index`, and there the prediction may be anything from 0.

        Raises:
            ValueError: If shapes differ or an id is out of range.
        """
        if prediction.shape != labels.shape:
            raise ValueError(f"prediction is {tuple(prediction.shape)} but labels are {tuple(labels.shape)}.")
        # One row and one column more take the ids that are no class.
        size = self.num_labels + 1
        pairs = torch.empty(
            labels.numel(), dtype=torch.int16 if size**2 <= 2**15 else torch.int32, device=labels.device
        )
        blocks = [tensor.flatten().split(BLOCK_PIXELS) for tensor in (labels, prediction, pairs)]
        lowest, ignored = 0, 0
        for truth, guess, block_pairs in zip(*blocks, strict=True):
            truth, guess = _to_signed(truth), _to_signed(guess)
            lowest = min(lowest, int(truth.min()), int(guess.min()))
            ignored += truth.numel() - int((truth - self.ignore_index).count_nonzero())
            torch.add(guess.clamp(max=size - 1), truth.clamp(max=size - 1), alpha=size, out=block_pairs)
        if lowest < 0:
            raise ValueError(f"prediction or labels hold id {lowest}; ids start at 0.")
        counts = torch.bincount(pairs, minlength=size**2).view(size, size).cpu()
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

    def reduce(self, accelerator) -> None:
        """Sum over the processes of an `accelerate.Accelerator`; once, when each has counted its own images."""
        self.confusion = accelerator.reduce(self.confusion.to(accelerator.device), "sum").cpu()

    def compute(self, classes: Sequence[int] | None = None) -> dict[str, float | list[float]]:
        """
        All figures, 0 to 1, over all classes or the chosen ones.

        Args:
            classes: Only these are averaged, and only pixels that truly are of them count.

        Returns:
            `mean_iou`: mean over classes that occur in the ground truth (detectron2 since 2022, CAT-Seg's tables).
            `mean_iou_with_absent`: classes that are predicted but never true count as 0 (mmseg, `evaluate`'s
            `mean_iou`, SAN's paper). `frequency_weighted_iou`, `pixel_accuracy`, `mean_accuracy` (mean recall over
            classes in the ground truth). In the order of the classes: `per_class_iou`, NaN where a class is neither
            true nor predicted, `per_class_accuracy`, NaN where it is never true, and `per_class_pixels`, how often it
            is true. A mean over nothing is NaN.
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
    return ids.to(torch.int16 if ids.dtype == torch.uint8 else torch.int32)
