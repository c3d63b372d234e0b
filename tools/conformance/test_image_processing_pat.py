"""transformers' `ImageProcessingTestMixin`, with its mixin for post-processing, on PAT's image processors."""

import unittest

from skips import skips
from transformers.utils import is_torchvision_available
from transformers_tests.test_image_processing_common import (
    ImageProcessingTester,
    ImageProcessingTestMixin,
    PostProcessSemanticSegmentationTestMixin,
)

from transformers_pat.image_processing_pat import PatImageProcessor
from transformers_pat.image_processing_pil_pat import PatImageProcessorPil


class PatImageProcessingTester(ImageProcessingTester):
    """Sizes of the mixins' random images, and the processors' settings."""

    def __init__(self, parent):
        super().__init__(
            parent,
            num_labels=5,
            size={"height": 32, "width": 48},
            size_divisor=16,
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        )

    def _get_image_processing_classes(self):
        """Not looked up by the test's folder, as in transformers' repository."""
        backends = {"torchvision": PatImageProcessor, "pil": PatImageProcessorPil}
        return backends if is_torchvision_available() else {"pil": PatImageProcessorPil}


SKIPS = {
    "test_pil_can_run_without_torchvision": "The test loads PAT in a process that neither imports this package nor "
    "trusts remote code. `tests/model/test_remote_code.py` runs every processor there, without torchvision.",
}
if not is_torchvision_available():
    SKIPS["test_new_models_require_torchvision_backend"] = "torchvision is not installed here."


@skips(SKIPS)
class PatImageProcessingTest(PostProcessSemanticSegmentationTestMixin, ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = PatImageProcessingTester
