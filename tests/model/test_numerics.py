"""The same answer whatever computes it: precision, compilation, batches, order of labels, windows; and as ever."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_pat import PAT_NANO, PatForSemanticSegmentation, PatProcessor, layers_pat

ROOT = Path(__file__).parents[2]
LABELS = ["sky", "building", "tree;bush", "cat"]
VALUES = Path(__file__).with_name("pat_nano_logits.json")


def photos() -> dict[str, Image.Image]:
    """The example photos, and one of noise."""
    named = {name: Image.open(ROOT / "examples" / "photos" / f"{name}.jpg") for name in ("china", "cat")}
    noise = np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)
    return {**named, "noise": Image.fromarray(noise)}


def pooled(logits: torch.Tensor) -> list:
    """Means over a grid of 2 x 3 parts of the photo, per label."""
    return torch.nn.functional.adaptive_avg_pool2d(logits, (2, 3))[0].tolist()


@pytest.fixture(scope="module")
def model():
    return PatForSemanticSegmentation.from_pretrained(PAT_NANO, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor():
    return PatProcessor.from_pretrained(PAT_NANO)


@pytest.fixture(scope="module")
def text_embeds(model, processor):
    return model.get_text_embeds(LABELS, processor)


@pytest.fixture(scope="module")
def pixel_values(processor):
    return {name: processor(images=[photo], return_tensors="pt")["pixel_values"] for name, photo in photos().items()}


@pytest.fixture(scope="module")
def logits(model, pixel_values, text_embeds):
    with torch.no_grad():
        return {name: model(values, text_embeds=text_embeds).logits for name, values in pixel_values.items()}


def agreement(one: torch.Tensor, other: torch.Tensor) -> float:
    """Share of places with the same best label."""
    return (one.argmax(1) == other.argmax(1)).float().mean().item()


@pytest.mark.parametrize("num_labels", [3, 60])  # 60 are more than are refined
def test_parts(model, pixel_values, monkeypatch, num_labels):
    """Without gradient, a CPU computes part by part."""
    words = torch.nn.functional.normalize(torch.randn(num_labels, model.config.projection_dim), dim=-1)
    batch = torch.stack([pixel_values["noise"][0], -pixel_values["noise"][0]])
    whole = model(batch, text_embeds=words)
    monkeypatch.setattr(layers_pat, "NUMBERS_IN_CACHE", 20_000)
    with torch.no_grad():
        parts = model(batch, text_embeds=words)
        from_codes = model.segment_codes(parts.codes, words)
    assert all(torch.equal(one, other) for one, other in zip(whole.codes, parts.codes, strict=True))
    torch.testing.assert_close(parts.logits, whole.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(from_codes, model.segment_codes(whole.codes, words), atol=1e-4, rtol=1e-4)


def test_logits_are_those_of_the_table(logits):
    """`python -m tests.model.test_numerics` writes it anew, after a new pat-nano."""
    expected = json.loads(VALUES.read_text())
    for name, values in logits.items():
        assert np.allclose(pooled(values), expected[name], atol=2e-3), name


def test_two_runs_are_equal_bit_for_bit(model, pixel_values, text_embeds, logits):
    with torch.no_grad():
        again = model(pixel_values["china"], text_embeds=text_embeds).logits
    assert torch.equal(again, logits["china"])


def test_bfloat16(model, pixel_values, text_embeds, logits):
    for name, values in pixel_values.items():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found = model(values, text_embeds=text_embeds).logits.float()
        assert agreement(found, logits[name]) > (0.9 if name == "noise" else 0.98), name


def test_compiled(model, pixel_values, text_embeds, logits):
    compiled = torch.compile(model, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        found = compiled(pixel_values["cat"], text_embeds=text_embeds).logits
    assert torch.allclose(found, logits["cat"], atol=1e-3)


def test_a_photo_is_the_same_in_any_batch(model, processor, text_embeds):
    images = [photo.resize((160, 96)) for photo in photos().values()]
    batch = processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        together = model(batch, text_embeds=text_embeds).logits
        alone = torch.cat([model(one[None], text_embeds=text_embeds).logits for one in batch])
    assert torch.allclose(together, alone, atol=1e-3)


def test_labels_in_another_order(model, pixel_values, text_embeds, logits):
    order = [2, 0, 3, 1]
    with torch.no_grad():
        found = model(pixel_values["china"], text_embeds=text_embeds[order]).logits
    assert torch.allclose(found, logits["china"][:, order], atol=1e-3)


def test_one_window_over_the_whole_photo(model, pixel_values, text_embeds, logits):
    values = pixel_values["noise"][..., :256, :256]
    with torch.no_grad():
        whole = model(values, text_embeds=text_embeds).logits
        windows = model.segment_windows(values, text_embeds=text_embeds, window_size=256, stride=256).logits
    resized = torch.nn.functional.interpolate(whole, windows.shape[-2:], mode="bilinear", align_corners=False)
    assert agreement(windows, resized) > 0.99


def test_memory_does_not_grow_with_calls(model, processor):
    import psutil

    from transformers_pat import PatSegmentationPipeline

    pipe, photo = PatSegmentationPipeline(model=model, processor=processor), Image.new("RGB", (32, 32))
    processor.image_processor.size, before = {"shortest_edge": 32}, processor.image_processor.size
    try:
        memory = []
        for call in range(150):
            pipe(photo, candidate_labels=[f"word {call}", f"thing {call}"])
            if call >= 50:
                memory.append(psutil.Process().memory_info().rss)
    finally:
        processor.image_processor.size = before
    assert memory[-1] - memory[0] < 30e6  # 200 embeddings take 0.2 MB


def write() -> None:
    """Writes the table anew."""
    model = PatForSemanticSegmentation.from_pretrained(PAT_NANO, dtype=torch.float32).eval()
    processor = PatProcessor.from_pretrained(PAT_NANO)
    text_embeds = model.get_text_embeds(LABELS, processor)
    table = {}
    for name, photo in photos().items():
        with torch.no_grad():
            values = processor(images=[photo], return_tensors="pt")["pixel_values"]
            found = pooled(model(values, text_embeds=text_embeds).logits)
        table[name] = [[[round(value, 4) for value in row] for row in label] for label in found]
    VALUES.write_text(json.dumps(table) + "\n")


if __name__ == "__main__":
    write()
