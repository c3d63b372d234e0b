"""The configuration: what it stores, what it refuses."""

import json

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, CLIPVisionConfig

from transformers_pat.configuration_pat import PatConfig
from transformers_pat.modeling_pat import PatModel
from transformers_pat.registration import register

VISION = {"num_hidden_layers": 4, "num_attention_heads": 2, "hidden_size": 32, "patch_size": 8}
FIELDS = {"codebook_dim": 8, "codebook_sizes": [8, 12, 16], "token_guidance": False, "clip_name_or_path": "some/clip"}


def test_needs_no_arguments():
    config = PatConfig()
    assert config.vision_config.model_type == "clip_vision_model"
    assert config.text_config.model_type == "clip_text_model"
    assert config.num_levels == len(config.codebook_sizes) == len(config.feature_layers)


def test_json_round_trip(tmp_path):
    config = PatConfig(vision_config=VISION, **FIELDS)
    written = json.loads(config.to_json_string())
    assert {name: written[name] for name in FIELDS} == FIELDS
    config.to_json_file(tmp_path / "config.json")
    assert PatConfig.from_json_file(tmp_path / "config.json").to_dict() == config.to_dict()


@pytest.mark.parametrize("subfolder", ["", "inner"])
def test_save_and_load(tmp_path, subfolder):
    config = PatConfig(vision_config=VISION, **FIELDS)
    config.save_pretrained(tmp_path / subfolder)
    loaded = PatConfig.from_pretrained(tmp_path, subfolder=subfolder)
    assert plain(loaded) == plain(config)
    loaded.save_pretrained(tmp_path / "again")
    assert plain(PatConfig.from_pretrained(tmp_path / "again")) == plain(config)


def plain(config) -> dict:
    """The fields as JSON sees them, without who wrote them."""
    fields = json.loads(config.to_json_string(use_diff=False))
    return {name: value for name, value in fields.items() if name not in ("transformers_version", "_name_or_path")}


def test_towers_come_as_dict_or_config_or_not_at_all():
    from_dict = PatConfig(vision_config=VISION)
    from_config = PatConfig(vision_config=CLIPVisionConfig(**VISION))
    assert from_dict.vision_config.to_dict() == from_config.vision_config.to_dict()
    assert PatConfig(vision_config=None).vision_config.to_dict() == CLIPVisionConfig().to_dict()


def test_default_layers_follow_the_depth_of_the_tower():
    assert PatConfig(vision_config={"num_hidden_layers": 12}).feature_layers == [[12], [9, 12], [3, 6]]
    assert PatConfig(vision_config={"num_hidden_layers": 24}).feature_layers == [[24], [18, 24], [6, 12]]
    shallow = PatConfig(vision_config={"num_hidden_layers": 1})
    assert {layer for level in shallow.feature_layers for layer in level} == {1}


def test_kwargs_override_what_was_saved(tmp_path):
    PatConfig(vision_config=VISION, **FIELDS).save_pretrained(tmp_path)
    config = PatConfig.from_pretrained(tmp_path, token_guidance=True, vision_config={"attention_dropout": 0.1})
    assert config.token_guidance is True
    assert config.vision_config.attention_dropout == 0.1
    assert config.vision_config.hidden_size == VISION["hidden_size"]


def test_number_of_labels_follows_id2label(tmp_path):
    names = {index: f"class {index}" for index in range(300)}
    PatConfig(id2label=names, label2id={name: index for index, name in names.items()}).save_pretrained(tmp_path)
    loaded = PatConfig.from_pretrained(tmp_path)
    assert loaded.num_labels == 300
    assert loaded.id2label == names


def test_auto_config_knows_it_once_registered(tmp_path):
    register()  # a second time: tests/conftest.py did
    PatConfig(**FIELDS).save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is PatConfig


def test_model_holds_the_same_sub_configs(untrained_config):
    model = PatModel(untrained_config)
    assert model.vision_model.config is model.config.vision_config


WRONG = {
    "one level too few": ({"codebook_sizes": [8, 8]}, "one entry per level"),
    "layers for two levels": ({"feature_layers": [[4], [2]]}, "one entry per level"),
    "no levels": ({"codebook_sizes": [], "level_strides": [], "feature_layers": []}, "one entry per level"),
    "stride of three patches": ({"level_strides": [3, 1, 0.5]}, "must be 2, 1 or 0.5"),
    "fine before coarse": ({"level_strides": [0.5, 1, 2]}, "from coarse to fine"),
    "odd patch": ({"vision_config": {**VISION, "patch_size": 7}}, "patch size must be even"),
    "layer zero": ({"feature_layers": [[4], [0], [2]]}, "between 1 and 4"),
    "layer beyond the tower": ({"feature_layers": [[4], [5], [2]]}, "between 1 and 4"),
    "level without layers": ({"feature_layers": [[4], [], [2]]}, "at least one layer"),
    "empty codebook": ({"codebook_sizes": [8, 0, 8]}, "codebook_sizes"),
    "no heads": ({"num_segmenter_heads": 0}, "num_segmenter_heads must be at least 1"),
    "no labels to refine": ({"max_refined_labels": 0}, "max_refined_labels must be at least 1"),
    "decay above one": ({"codebook_decay": 1.5}, "codebook_decay"),
    "wrong type": ({"codebook_dim": "eight"}, "codebook_dim"),
    "unknown attention": ({"dense_attention": "value"}, "dense_attention"),
}


@pytest.mark.parametrize(("fields", "message"), WRONG.values(), ids=WRONG)
def test_refuses(fields, message):
    with pytest.raises(StrictDataclassError, match=message):
        PatConfig(**{"vision_config": VISION, **fields})


def test_checks_again_on_save(tmp_path):
    config = PatConfig(vision_config=VISION)
    config.codebook_sizes = [8]
    with pytest.raises(StrictDataclassError, match="one entry per level"):
        config.save_pretrained(tmp_path)
