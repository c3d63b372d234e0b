"""PAT's image processor on PIL and numpy: works wherever transformers does."""

from transformers.image_processing_backends import PilBackend

from .image_processing_common_pat import PatImageProcessingMixin, PatImageProcessorKwargs


class PatImageProcessorPil(PatImageProcessingMixin, PilBackend):  # noqa: D101
    __doc__ = PatImageProcessingMixin.__doc__


__all__ = ["PatImageProcessorKwargs", "PatImageProcessorPil"]
