"""Segmentation metrics from one confusion matrix, whose memory does not grow with the number of images."""

import torch


class SegmentationMetric:
    """
    Streaming mean IoU, frequency-weighted IoU and pixel accuracy over a whole split.

    Args:
        num_labels: Number of classes.
        ignore_index: Label whose pixels count nowhere, neither as truth nor as false alarm.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255):
        self.num_labels, self.ignore_index = num_labels, ignore_index
        self.confusion = torch.zeros(num_labels, num_labels, dtype=torch.int64)

    def update(self, prediction: torch.Tensor, labels: torch.Tensor) -> None:
        """
        Count one map.

        Args:
            prediction, labels: Integer maps of the same shape; ids below `num_labels`, labels may be `ignore_index`.

        Raises:
            ValueError: If shapes differ or an id is out of range.
        """
        if prediction.shape != labels.shape:
            raise ValueError(f"prediction is {tuple(prediction.shape)} but labels are {tuple(labels.shape)}.")
        valid = labels != self.ignore_index
        truth, guess = labels[valid].long(), prediction[valid].long()
        for name, ids in (("labels", truth), ("prediction", guess)):
            if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_labels:
                raise ValueError(
                    f"{name} hold ids {int(ids.min())}..{int(ids.max())}, expected 0..{self.num_labels - 1}."
                )
        pairs = torch.bincount(truth * self.num_labels + guess, minlength=self.num_labels**2)
        self.confusion += pairs.view_as(self.confusion).cpu()

    def compute(self) -> dict[str, float | list[float]]:
        """
        All figures, 0 to 1.

        Returns:
            `mean_iou`: mean over classes that occur in the ground truth (detectron2 since 2022, CAT-Seg's tables).
            `mean_iou_with_absent`: classes that are predicted but never true count as 0 (mmseg, `evaluate`'s
            `mean_iou`, SAN's paper). `frequency_weighted_iou`, `pixel_accuracy`, and `per_class_iou`, NaN for classes
            that are neither true nor predicted.
        """
        confusion = self.confusion.double()
        intersection, truth, guess = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
        union = truth + guess - intersection
        iou = intersection / union
        total = truth.sum()
        return {
            "mean_iou": iou[truth > 0].mean().item(),
            "mean_iou_with_absent": iou[union > 0].mean().item(),
            "frequency_weighted_iou": (truth[truth > 0] / total * iou[truth > 0]).sum().item(),
            "pixel_accuracy": (intersection.sum() / total).item(),
            "per_class_iou": iou.tolist(),
        }
