"""Export of checkpoints to formats that run without PyTorch."""

from .graphs import export_onnx

__all__ = ["export_onnx"]
