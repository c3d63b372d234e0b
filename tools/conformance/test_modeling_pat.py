"""transformers' `ModelTesterMixin` and `ConfigTester` on PAT's models."""

import unittest

import torch
from skips import skips
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor

from tests.support.tiny import NUM_WORDS, PATCH_SIZE, PROJECTION_DIM, TINY_PAT, make_clip, make_config
from transformers_pat import PatConfig, PatForSemanticSegmentation, PatModel


class PatModelTester:
    """What the mixin reads: the sizes of the tiny model's vision tower, a configuration, inputs."""

    is_training = True
    batch_size = 3
    num_channels = 3
    image_size = 32
    patch_size = PATCH_SIZE
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 2
    seq_length = 1 + (image_size // patch_size) ** 2
    encoder_seq_length = seq_length

    def get_config(self) -> PatConfig:
        clip = make_clip(vision={"num_hidden_layers": self.num_hidden_layers, "image_size": self.image_size})
        return make_config(clip, **TINY_PAT, feature_layers=[[2], [1, 2], [1]], num_decoder_blocks=1)

    def prepare_config_and_inputs_for_common(self):
        pixel_values = floats_tensor([self.batch_size, self.num_channels, self.image_size, self.image_size])
        return self.get_config(), {"pixel_values": pixel_values}


@skips(
    {
        "test_retain_grad_hidden_states_attentions": "CLIP's towers are frozen and run without gradient, so their "
        "hidden states and attentions have none.",
    }
)
class PatModelTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (PatModel, PatForSemanticSegmentation)
    test_resize_embeddings = False  # the input embedding is a convolution

    def setUp(self):
        self.model_tester = PatModelTester()
        self.config_tester = ConfigTester(
            self, config_class=PatConfig, has_text_modality=False, common_properties=["num_hidden_layers"]
        )

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        """Add words for the segmenter, and unlike for transformers' heads labels of several classes."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if model_class is PatForSemanticSegmentation:
            generator = torch.Generator().manual_seed(3)
            text_embeds = torch.randn(NUM_WORDS, PROJECTION_DIM, generator=generator)
            inputs["text_embeds"] = torch.nn.functional.normalize(text_embeds, dim=-1).to(inputs["pixel_values"])
        return inputs

    def test_config(self):
        self.config_tester.run_common_tests()

    def test_model_get_set_embeddings(self):
        """As in the tests of transformers' vision models, whose input embedding is a convolution."""
        for model_class in self.all_model_classes:
            model = model_class(self.model_tester.get_config())
            self.assertIsInstance(model.get_input_embeddings(), torch.nn.Conv2d)
            replacement = torch.nn.Conv2d(3, 8, PATCH_SIZE, PATCH_SIZE)
            model.set_input_embeddings(replacement)
            self.assertIs(model.get_input_embeddings(), replacement)
            self.assertIsNone(model.get_output_embeddings())
