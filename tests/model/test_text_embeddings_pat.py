"""Class embeddings: the cache is bounded, never stale and not part of a copy; labels keep names of their own."""

import copy
import pickle

import pytest
import torch

from transformers_pat.processing_pat import PatProcessor
from transformers_pat.prompts_pat import label_names
from transformers_pat.text_embeddings_pat import TextEmbeddingCache

from ..support.tiny import make_clip


@pytest.fixture
def processor(clip_folder):
    return PatProcessor.from_clip_pretrained(clip_folder)


@torch.no_grad()
def load_other_weights(model):
    other = make_clip(seed=1).state_dict()
    model.load_state_dict({key: other[key] for key in other if key.startswith("text_")}, strict=False)


@torch.no_grad()
def write_in_place(model):
    model.text_projection.weight.mul_(torch.linspace(0.5, 2, len(model.text_projection.weight))[:, None])


def round_and_back(model):
    model.to(torch.bfloat16).to(torch.float32)


def replace_the_projection(model):
    model.text_projection = copy.deepcopy(model.text_projection)
    write_in_place(model)


def add_lora(model):
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(target_modules=r"text_model\..*q_proj", init_lora_weights=False), model)


@pytest.mark.parametrize(
    "change", [load_other_weights, write_in_place, round_and_back, replace_the_projection, add_lora]
)
def test_no_stale_embeddings(segmenter, processor, change):
    before = segmenter.get_text_embeds(["road", "car"], processor)
    change(segmenter)
    after = segmenter.get_text_embeds(["road", "car"], processor)
    assert not torch.equal(after, before)
    assert torch.equal(after, segmenter.encode_text(**processor(text=["road", "car"], return_tensors="pt")))


def test_the_cache_is_bounded_and_drops_the_least_recently_used(segmenter, processor, monkeypatch):
    segmenter.text_cache = TextEmbeddingCache(max_entries=3)
    encoded = []
    encode_text = segmenter.encode_text
    monkeypatch.setattr(
        segmenter, "encode_text", lambda **inputs: encoded.append(len(inputs["input_ids"])) or encode_text(**inputs)
    )
    for words in (["a", "b", "c"], ["a"], ["d"], ["a"], ["b"]):
        segmenter.get_text_embeds(words, processor)
        assert len(segmenter.text_cache) == 3
    assert encoded == [3, 1, 1]  # "d" took the place of "b", not that of "a"
    many = segmenter.get_text_embeds(list("abcdefg"), processor)
    assert len(many) == 7 and len(segmenter.text_cache) == 3


def test_copies_do_not_grow_with_the_cache(segmenter, processor):
    size = len(pickle.dumps(segmenter))
    segmenter.get_text_embeds([f"word {number}" for number in range(300)], processor)
    assert abs(len(pickle.dumps(segmenter)) - size) < 100
    assert len(copy.deepcopy(segmenter).text_cache) == 0 < len(segmenter.text_cache)


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["road", "tree;bush"], ["road", "tree"]),
        (["car;auto", "car;van", "tree;bush"], ["car;auto", "car;van", "tree"]),
        (["Car", "car;van"], ["Car", "car;van"]),
        ([" sky ", "sky ; heaven"], ["sky", "sky ; heaven"]),
    ],
)
def test_labels_that_differ_have_names_that_differ(labels, names):
    assert label_names(labels) == names


def test_a_vocabulary_with_a_repeated_first_name_is_one_to_one(segmenter, processor, tmp_path):
    segmenter.set_vocabulary(["car;auto", "car;van"], processor)
    segmenter.save_pretrained(tmp_path)
    config = type(segmenter).from_pretrained(tmp_path).config
    assert config.id2label == {0: "car;auto", 1: "car;van"}
    assert config.label2id == {"car;auto": 0, "car;van": 1}
