"""The processor through its public interface: prompts, lengths, keywords, saving."""

import json

import pytest
import torch
from transformers import AutoProcessor

from transformers_pat.processing_pat import PatProcessor
from transformers_pat.prompts_pat import (
    PROMPT_TEMPLATES,
    build_prompts,
    check_labels,
    resolve_templates,
    split_candidate_labels,
)

from ..support.tiny import photo, tiny_model, tiny_processor


@pytest.fixture
def processor():
    return tiny_processor()


def prompts_of(processor, **kwargs):
    ids = processor(return_tensors="pt", **kwargs).input_ids
    return processor.tokenizer.batch_decode(ids, skip_special_tokens=True)


def test_presets():
    assert {name: len(set(templates)) for name, templates in PROMPT_TEMPLATES.items()} == {
        "none": 1,
        "simple": 1,
        "vild": 14,
        "imagenet": 80,
    }
    for name, templates in PROMPT_TEMPLATES.items():
        assert resolve_templates(name) == templates
        assert resolve_templates(list(templates)) == templates


def test_order_of_prompts():
    prompts, owners = build_prompts(["road", "tree; bush"], ("a {}", "{} {here}"))
    assert prompts == ["a road", "road {here}", "a tree", "tree {here}", "a bush", "bush {here}"]
    assert owners == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("text", "labels"),
    [("road, car", ["road", "car"]), ("road", ["road"]), ("road,tree;bush,", ["road", "tree;bush"]), ("", [""])],
)
def test_split_candidate_labels(text, labels):
    assert split_candidate_labels(text) == labels


def test_labels_keep_their_order_and_are_stripped():
    assert check_labels((" road", "Car ", "a b")) == ["road", "Car", "a b"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "empty"),
        (["road", ""], "label 1 is empty"),
        (["  "], "label 0 is empty"),
        (["road", " ROAD "], "'ROAD' is given twice"),
        (["tree;"], "empty synonym"),
        (["road", 3], "label 1 must be a string"),
        (7, "must be a list"),
    ],
)
def test_wrong_labels(processor, labels, message):
    with pytest.raises(ValueError, match=message):
        processor(text=labels)


def test_text_only(processor):
    inputs = processor(text=["road", "car", "tree;bush"], return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask", "prompt_labels"}
    assert inputs.input_ids.shape == inputs.attention_mask.shape == (4, inputs.attention_mask.sum(1).max())
    assert inputs.prompt_labels.dtype == torch.int64
    assert inputs.prompt_labels.tolist() == [0, 1, 2, 2]
    assert prompts_of(processor, text="road, car")[1].replace(" ", "") == "aphotoofacar."


def test_images_only(processor):
    inputs = processor(images=[photo(), photo(128, 64)], return_tensors="pt")
    assert set(inputs) == {"pixel_values", "pixel_mask"}


def test_images_text_and_maps(processor):
    maps = [torch.zeros(96, 128, dtype=torch.int64)]
    inputs = processor(images=[photo()], text=["road"], segmentation_maps=maps, return_tensors="pt")
    assert set(inputs) == {"pixel_values", "labels", "input_ids", "attention_mask", "prompt_labels"}
    assert set(processor.model_input_names) == set(inputs) - {"labels"}


def test_neither_images_nor_text(processor):
    with pytest.raises(ValueError, match="images, text or both"):
        processor()
    with pytest.raises(ValueError, match="images they belong to"):
        processor(text=["road"], segmentation_maps=[torch.zeros(4, 4)])


@pytest.mark.parametrize("templates", ["vild", "{} !", ["{} x", "the {}"]])
def test_templates_of_a_call_and_of_the_processor(processor, templates):
    count = len(resolve_templates(templates))
    assert len(processor(text=["road", "car"], prompt_templates=templates)["input_ids"]) == 2 * count
    assert prompts_of(tiny_processor(templates), text=["a;b"]) == prompts_of(
        processor, text=["a;b"], prompt_templates=templates
    )


@pytest.mark.parametrize("templates", ["vlid", [], ["no place"], ["{} and {}"], [3], 5])
def test_wrong_templates(processor, templates):
    with pytest.raises(ValueError, match="template"):
        tiny_processor(templates)
    with pytest.raises(ValueError, match="template"):
        processor(text=["road"], prompt_templates=templates)


def test_long_labels_are_not_cut(processor):
    with pytest.raises(ValueError, match=r"label 'word word .*…' gives a prompt of .* tokens .* 77: shorten"):
        processor(text=["road", "word " * 300])
    fits = "x" * (77 - 2)
    assert processor(text=[fits], prompt_templates="none", return_tensors="pt").input_ids.shape == (1, 77)
    with pytest.raises(ValueError, match="78 tokens"):
        processor(text=[fits + "x"], prompt_templates="none")


def test_tokenizer_without_a_limit(processor):
    processor.tokenizer.model_max_length = 10**30
    with pytest.raises(ValueError, match="reads 77"):
        processor(text=["x" * 100])
    processor.tokenizer.model_max_length = 16
    with pytest.raises(ValueError, match="reads 16"):
        processor(text=["x" * 20])


def test_keywords_reach_their_part(processor):
    size = {"height": 32, "width": 48}
    flat = processor(
        images=photo(), text=["road"], size=size, padding="max_length", max_length=40, return_tensors="pt"
    )
    nested = processor(
        images=photo(),
        text=["road"],
        images_kwargs={"size": size},
        text_kwargs={"padding": "max_length", "max_length": 40},
        common_kwargs={"return_tensors": "pt"},
    )
    for inputs in (flat, nested):
        assert inputs.pixel_values.shape == (1, 3, 32, 48)
        assert inputs.input_ids.shape == (1, 40)


def test_lists_without_return_tensors(processor):
    inputs = processor(text=["road", "tree;bush"])
    assert inputs["prompt_labels"] == [0, 1, 1]
    assert len({len(ids) for ids in inputs["input_ids"]}) == 1


@pytest.mark.parametrize("templates", ["imagenet", ["{} x", "the {}"]])
def test_save_and_load(tmp_path, templates):
    processor = tiny_processor(templates, ignore_index=65535)
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "processor_config.json").read_text())["prompt_templates"] == templates
    tiny_model().config.save_pretrained(tmp_path)
    for loaded in (PatProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert isinstance(loaded, PatProcessor)
        assert loaded.prompt_templates == templates
        assert loaded.image_processor.ignore_index == 65535
        expected, found = (one(photo(), ["road"], return_tensors="pt") for one in (processor, loaded))
        assert expected.keys() == found.keys()
        assert torch.equal(found.input_ids, expected.input_ids)
        assert (found.pixel_values - expected.pixel_values).abs().max() < 0.1  # torchvision may have been taken
    assert PatProcessor.from_pretrained(tmp_path, prompt_templates="none").prompt_templates == "none"


def test_with_the_model(processor):
    model = tiny_model()
    images = [photo(), photo(128, 64, seed=1)]
    inputs = processor(images=images, text=["road", "tree;bush"], return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    maps = processor.post_process_semantic_segmentation(outputs, target_sizes=[(96, 128), (128, 64)])
    assert [tuple(one.shape) for one in maps] == [(96, 128), (128, 64)]
    for image, one in zip(images, maps, strict=True):
        with torch.no_grad():
            alone = model(**processor(images=image, text=["road", "tree;bush"], return_tensors="pt"))
        (expected,) = processor.post_process_semantic_segmentation(alone, [tuple(one.shape)])
        assert (expected != one).float().mean() < 1e-3
