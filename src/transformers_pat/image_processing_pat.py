"""PAT's image processor on torchvision. Without torchvision use its twin, `PatImageProcessorPil`."""

from transformers.image_processing_backends import TorchvisionBackend

from .image_processing_common_pat import PatImageProcessingMixin, PatImageProcessorKwargs


class PatImageProcessor(PatImageProcessingMixin, TorchvisionBackend):  # noqa: D101
    __doc__ = PatImageProcessingMixin.__doc__

    def normalize(self, image, mean, std, **kwargs):
        """Normalise; torchvision takes floats only, PIL's backend takes 8-bit values too."""
        return super().normalize(image.float(), mean, std, **kwargs)


__all__ = ["PatImageProcessor", "PatImageProcessorKwargs"]
