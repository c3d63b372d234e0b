"""The embedded checkpoint: complete, small, and sensible on the photos that come with the repository."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from transformers_pat import PAT_NANO, PatForSemanticSegmentation, PatProcessor

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def nano():
    return PatForSemanticSegmentation.from_pretrained(PAT_NANO).eval(), PatProcessor.from_pretrained(PAT_NANO)


@pytest.fixture(scope="module")
def photo():
    return Image.open(ROOT / "examples" / "photos" / "china.jpg")


def segment(nano, photo, words):
    model, processor = nano
    inputs = processor(images=[photo], text=words, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    return processor.post_process_semantic_segmentation(outputs, target_sizes=[(photo.height, photo.width)])[0]


def test_files_are_small_and_safe():
    files = [path for path in Path(PAT_NANO).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 24e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".py", ".md", ".txt"}


def test_loads_in_float32_with_guidance(nano):
    model, _ = nano
    assert model.dtype == torch.float32 and model.config.token_guidance
    assert model.segmenter.guidance.start.weight.abs().max() > 0
    assert model.num_trainable_parameters < 12e6


@pytest.mark.parametrize("words", [["sky", "building", "tree"], ["tree", "the heavens", "edifice"]])
def test_sky_is_above_the_building(nano, photo, words):
    label_map = segment(nano, photo, words)
    sky = words.index("sky" if "sky" in words else "the heavens")
    building = words.index("building" if "building" in words else "edifice")
    height, width = label_map.shape
    upper = label_map[: height // 8]
    middle = label_map[height // 2 : 3 * height // 4, width // 4 : width // 2]
    assert (upper == sky).float().mean() > 0.5
    assert (middle == sky).float().mean() < 0.1
    assert (label_map == building).float().mean() > 0.1


def test_levels_add_detail(nano, photo):
    model, processor = nano
    pixel_values = processor(images=[photo], return_tensors="pt").pixel_values
    with torch.no_grad():
        codes = model.pat.encode(pixel_values).codes
        errors = [
            (model.pat.decode(codes, num_levels=n, output_size=tuple(pixel_values.shape[-2:])) - pixel_values)
            .square()
            .mean()
            .item()
            for n in (1, 2, 3)
        ]
    assert errors[0] > errors[1] > errors[2]
    assert all(len(level.unique()) > 10 for level in codes)


def test_held_out_synonyms_are_held_out():
    asked = {
        word
        for words in json.loads((ROOT / "recipes" / "pat_nano" / "held_out_synonyms.json").read_text()).values()
        for name, word in words.items()
        if word != name
    }
    trained = json.loads((ROOT / "recipes" / "pat_nano" / "synonyms.json").read_text())
    assert not asked & {word for name, words in trained.items() for word in [name, *words]}
