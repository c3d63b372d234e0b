"""Old name of `transformers_pat.evaluation.metrics`, kept for code that imports it."""

from .evaluation.metrics import SegmentationMetric

__all__ = ["SegmentationMetric"]
