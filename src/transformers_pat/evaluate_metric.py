"""Old name of `transformers_pat.evaluation.hf_metric`, kept for code that imports it."""

from .evaluation.hf_metric import StreamingMeanIoU

__all__ = ["StreamingMeanIoU"]
