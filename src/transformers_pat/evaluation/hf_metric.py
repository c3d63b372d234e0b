"""The streaming metric with the interface of the `evaluate` library (extra `train`)."""

from collections.abc import Iterable
from typing import Any

import datasets
import evaluate
import numpy as np
import torch

from .metrics import SegmentationMetric


class StreamingMeanIoU(evaluate.Metric):
    """
    `evaluate`'s `mean_iou`, with memory that does not grow: maps are counted as they come, and none is stored.

    As in `evaluate`, a class that is predicted but never true counts as 0; the other convention is `mean_iou` of
    [`SegmentationMetric`]. Ids that are neither a class nor `ignore_index` are an error; `evaluate` leaves them out.

    Args:
        num_labels: Number of classes.
        ignore_index: Label of pixels that are not counted.
        kwargs: Arguments of `evaluate.Metric`.
    """

    def __init__(self, num_labels: int, ignore_index: int = 255, **kwargs):
        super().__init__(**kwargs)
        self._metric = SegmentationMetric(num_labels, ignore_index)

    def _info(self) -> evaluate.MetricInfo:
        maps = datasets.Array2D((None, None), "uint16")
        return evaluate.MetricInfo(
            description="Mean IoU from one confusion matrix.",
            citation="",
            inputs_description="Maps are (height, width) class ids: arrays, tensors, pictures or lists.",
            features=datasets.Features({"predictions": maps, "references": maps}),
        )

    def add(self, *, prediction, reference) -> None:
        """Count one map."""
        self._metric.update(_to_tensor(prediction), _to_tensor(reference))

    def add_batch(self, *, predictions: Iterable, references: Iterable) -> None:
        """Count several maps, of any sizes."""
        for prediction, reference in zip(predictions, references, strict=True):
            self.add(prediction=prediction, reference=reference)

    def compute(self, *, predictions: Iterable | None = None, references: Iterable | None = None) -> dict[str, Any]:
        """
        Compute the scores of all maps added since the last call, and start anew.

        Args:
            predictions: More maps to count first.
            references: Their ground truth.

        Returns:
            `mean_iou`, `mean_accuracy`, `overall_accuracy`, and arrays of (num_labels,): `per_category_iou`,
            `per_category_accuracy`, NaN where undefined.
        """
        if predictions is not None and references is not None:
            self.add_batch(predictions=predictions, references=references)
        elif predictions is not references:
            raise ValueError("predictions and references belong together: give both or none")
        scores = self._metric.compute()
        self._metric = SegmentationMetric(self._metric.num_labels, self._metric.ignore_index)
        return {
            "mean_iou": scores["mean_iou_with_absent"],
            "mean_accuracy": scores["mean_accuracy"],
            "overall_accuracy": scores["pixel_accuracy"],
            "per_category_iou": np.array(scores["per_class_iou"]),
            "per_category_accuracy": np.array(scores["per_class_accuracy"]),
        }


def _to_tensor(label_map: Any) -> torch.Tensor:
    return (
        label_map if isinstance(label_map, torch.Tensor) else torch.from_numpy(np.require(label_map, requirements="W"))
    )
