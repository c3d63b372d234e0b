"""torch.compile and torch.export: one graph for photos of any size."""

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounter
from torch.export import Dim

from ..support.tiny import PATCH_SIZE, random_images

SIZES = [(17, 19), (19, 25), (21, 21), (20, 18), (40, 33)]  # in patches, odd and even


def inputs(model, patches, num_labels):
    """Photos of whole patches, and words; torch would take sizes that are equal here as equal everywhere."""
    words = F.normalize(torch.randn(num_labels, model.config.projection_dim), dim=-1)
    return random_images(2, *(PATCH_SIZE * side for side in patches)), words


@torch.no_grad()
def test_compiling_serves_any_size_and_number_of_labels(segmenter):
    torch._dynamo.reset()
    model, counter = segmenter.eval(), CompileCounter()
    compiled = torch.compile(lambda x, words: model(x, text_embeds=words).logits, dynamic=True, backend=counter)
    for number, patches in enumerate(SIZES):
        pixel_values, words = inputs(model, patches, 8 + number)
        expected = model(pixel_values, text_embeds=words).logits
        torch.testing.assert_close(compiled(pixel_values, words), expected)
    assert counter.frame_count == 1


@torch.no_grad()
@pytest.mark.parametrize("num_labels", [3, 40])  # 40 are more than are refined
def test_an_exported_program_serves_any_size(segmenter, num_labels):
    model = segmenter.eval()
    pixel_values, words = inputs(model, SIZES[0], num_labels)
    rows, columns = (PATCH_SIZE * Dim(name, min=2, max=256) for name in ("rows", "columns"))
    program = torch.export.export(
        model, (pixel_values,), {"text_embeds": words},
        dynamic_shapes={"pixel_values": {0: Dim.AUTO, 2: rows, 3: columns}, "text_embeds": {0: Dim.AUTO}},
    )  # fmt: skip
    for patches in SIZES:
        pixel_values, words = inputs(model, patches, num_labels)
        found = program.module()(pixel_values, text_embeds=words)
        torch.testing.assert_close(found["logits"], model(pixel_values, text_embeds=words).logits)
