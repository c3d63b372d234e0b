"""transformers' `ProcessorTesterMixin` on PAT's processor."""

import unittest

from skips import skips
from transformers_tests.test_processing_common import ProcessorTesterMixin

from tests.support.tiny import make_tokenizer
from transformers_pat import PatImageProcessor, PatProcessor


@skips(
    {
        "test_call_arguments_not_in_attributes": "A call may replace the processor's own `prompt_templates`, as a "
        "call of an image processor may replace any of its fields.",
        "test_processor_text_has_no_visual": "The test pairs each text with images. PAT's texts are labels, the same "
        "for all images and each given once.",
        "test_subprocessor_defaults_0_text": "The tokenizer gets a label within its prompt templates, not alone.",
    }
)
class PatProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = PatProcessor

    @classmethod
    def _setup_image_processor(cls):
        return PatImageProcessor(size={"height": 32, "width": 48})

    @classmethod
    def _setup_tokenizer(cls):
        return make_tokenizer()
