"""Evaluation: segment a whole data set, score it, report it."""

from .evaluator import Evaluation, evaluate_dataset
from .metrics import SegmentationMetric

__all__ = ["Evaluation", "SegmentationMetric", "evaluate_dataset"]
