"""CLIP in, PAT out and back: towers bit-equal, CLIP left out and fetched, damage refused."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel
from transformers import logging as transformers_logging

from transformers_pat.configuration_pat import PatConfig
from transformers_pat.modeling_pat import PatForSemanticSegmentation, PatModel
from transformers_pat.processing_pat import PatProcessor

from ..support.tiny import TINY_PAT, make_clip, random_images, train_steps


def assert_towers_equal(model, clip) -> None:
    """Every tensor of the CLIP is in the model, bit for bit."""
    ours = {key.removeprefix("pat."): tensor for key, tensor in model.state_dict().items() if model.is_clip_key(key)}
    theirs = clip.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key


def assert_one_line(error) -> None:
    message = str(error.value)
    assert "\n" not in message and len(message) < 400, message


# From CLIP

SHAPES = {
    "patch 4": {"vision": {"patch_size": 4}},
    "patch 14": {"vision": {"patch_size": 14, "image_size": 42}},
    "patch 32": {"vision": {"patch_size": 32, "image_size": 64}},
    "wide and deep": {"vision": {"hidden_size": 64, "num_hidden_layers": 7, "num_attention_heads": 4}},
    "one layer": {"vision": {"num_hidden_layers": 1}},
    "wide text": {"text": {"hidden_size": 48, "num_hidden_layers": 3, "max_position_embeddings": 100}},
    "other activation": {"vision": {"hidden_act": "gelu"}, "text": {"hidden_act": "gelu"}},
    "other joint space": {"projection_dim": 40},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_takes_any_clip(tmp_path, shape):
    clip = make_clip(**shape, seed=5)
    clip.save_pretrained(tmp_path)
    model = PatForSemanticSegmentation.from_clip_pretrained(tmp_path, **TINY_PAT)
    assert_towers_equal(model, clip)
    assert model.config.clip_name_or_path == str(tmp_path)
    text_embeds = torch.nn.functional.normalize(torch.randn(3, clip.config.projection_dim), dim=-1)
    with torch.no_grad():
        output = model(random_images(1, 50, 70), text_embeds=text_embeds)
    assert torch.isfinite(output.logits).all()


@torch.no_grad()
def test_towers_compute_what_clip_computes(clip_folder, make_segmenter):
    clip, model = CLIPModel.from_pretrained(clip_folder), make_segmenter()
    pixel_values = random_images(2, 32, 32)
    features = model.pat.extract_features(pixel_values, with_image_embeds=True)
    expected = clip.get_image_features(pixel_values=pixel_values).pooler_output
    torch.testing.assert_close(features.image_embeds, torch.nn.functional.normalize(expected, dim=-1))
    inputs = PatProcessor.from_clip_pretrained(clip_folder)(text=["road", "tree"], return_tensors="pt")
    expected = clip.get_text_features(inputs["input_ids"], attention_mask=inputs["attention_mask"]).pooler_output
    torch.testing.assert_close(model.encode_text(**inputs), torch.nn.functional.normalize(expected, dim=-1))
    hidden = clip.vision_model(pixel_values, output_hidden_states=True).hidden_states
    for layer, tap in features.taps.items():
        if layer < clip.config.vision_config.num_hidden_layers:
            assert torch.equal(tap.flatten(1, 2), hidden[layer][:, 1:])


def test_half_precision_clip_becomes_float32(tmp_path):
    clip = make_clip().half()
    clip.save_pretrained(tmp_path)
    model = PatForSemanticSegmentation.from_clip_pretrained(tmp_path, **TINY_PAT)
    assert model.dtype == torch.float32
    assert_towers_equal(model, clip.float())


def test_a_damaged_clip_is_refused(clip_folder, tmp_path):
    """Never a randomly initialised tower."""
    shutil.copytree(clip_folder, tmp_path, dirs_exist_ok=True)
    edit_tensors(tmp_path, lambda tensors: tensors.pop("vision_model.encoder.layers.1.mlp.fc1.weight"))
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.fc1\.weight") as error:
        PatForSemanticSegmentation.from_clip_pretrained(tmp_path, **TINY_PAT)
    assert_one_line(error)


def test_something_else_than_a_clip_is_refused(tmp_path):
    make_clip().vision_model.save_pretrained(tmp_path)
    with pytest.raises((ValueError, OSError)) as error:
        PatForSemanticSegmentation.from_clip_pretrained(tmp_path, **TINY_PAT)
    assert_one_line(error)


# Without CLIP


@pytest.mark.parametrize("cls", [PatModel, PatForSemanticSegmentation])
@torch.no_grad()
def test_clip_is_left_out_and_fetched(segmenter, cls, pixel_values, text_embeds, tmp_path, caplog):
    model = segmenter if cls is PatForSemanticSegmentation else segmenter.pat
    model.save_pretrained(tmp_path, save_clip=False)
    keys = load_file(tmp_path / "model.safetensors").keys()
    assert keys and not any(model.is_clip_key(key) for key in keys)
    transformers_logging.enable_propagation()
    loaded = cls.from_pretrained(tmp_path)
    transformers_logging.disable_propagation()
    assert "newly initialized" not in caplog.text and "MISSING" not in caplog.text
    for key, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key
    inputs = {"text_embeds": text_embeds} if cls is PatForSemanticSegmentation else {}
    assert torch.equal(loaded(pixel_values, **inputs)[0], model(pixel_values, **inputs)[0])


def test_saving_with_clip_again_is_whole(segmenter, tmp_path):
    segmenter.save_pretrained(tmp_path / "without", save_clip=False)
    PatForSemanticSegmentation.from_pretrained(tmp_path / "without").save_pretrained(tmp_path / "with")
    assert set(load_file(tmp_path / "with" / "model.safetensors")) == set(segmenter.state_dict())
    assert PatConfig.from_pretrained(tmp_path / "with").clip_saved is True


def test_without_clip_in_half_precision(segmenter, tmp_path):
    segmenter.save_pretrained(tmp_path, save_clip=False)
    loaded = PatForSemanticSegmentation.from_pretrained(tmp_path, dtype=torch.bfloat16)
    weight, expected = (m.text_projection.weight for m in (loaded, segmenter))
    assert torch.equal(weight, expected.to(torch.bfloat16))


def test_unknown_origin_can_not_be_left_out(untrained_config, tmp_path):
    with pytest.raises(ValueError, match="clip_name_or_path") as error:
        PatForSemanticSegmentation(untrained_config).save_pretrained(tmp_path, save_clip=False)
    assert_one_line(error)


@pytest.fixture
def without_clip(segmenter, tmp_path):
    """A checkpoint folder without CLIP, and a function that changes fields of its configuration."""
    folder = tmp_path / "pat"
    segmenter.save_pretrained(folder, save_clip=False)

    def edit(**fields):
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        return folder

    return edit


def refuses_to_load(folder, match, error=(OSError, ValueError)):
    with pytest.raises(error, match=match) as caught:
        PatForSemanticSegmentation.from_pretrained(folder)
    assert_one_line(caught)


@pytest.mark.parametrize("name", ["/no/such/folder", "nobody/no-such-clip"])
def test_clip_out_of_reach(without_clip, name):
    refuses_to_load(without_clip(clip_name_or_path=name), f"without its CLIP, {name}", OSError)


def test_clip_of_unknown_origin(without_clip):
    refuses_to_load(without_clip(clip_name_or_path=None), "does not say which")


def test_clip_with_other_weights(without_clip, tmp_path):
    make_clip(seed=9).save_pretrained(tmp_path / "other")
    refuses_to_load(without_clip(clip_name_or_path=str(tmp_path / "other")), "not the CLIP")


@pytest.mark.parametrize(
    "shape",
    [{"vision": {"hidden_size": 64}}, {"vision": {"num_hidden_layers": 2}}, {"text": {"hidden_size": 64}}],
)
def test_clip_of_another_shape(without_clip, tmp_path, shape):
    make_clip(**shape).save_pretrained(tmp_path / "other")
    folder = without_clip(clip_name_or_path=str(tmp_path / "other"), clip_fingerprint=None)
    refuses_to_load(folder, "This CLIP doesn't fit", ValueError)


def test_damaged_clip_is_not_fetched(without_clip, clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "other")
    edit_tensors(tmp_path / "other", lambda tensors: tensors.pop("text_model.final_layer_norm.bias"))
    refuses_to_load(without_clip(clip_name_or_path=str(tmp_path / "other")), "final_layer_norm")


# Damaged checkpoints


def edit_tensors(folder, change) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


IMPORTANT = [
    "pat.codebooks.1.embed",
    "pat.decoder.norm.weight",
    "segmenter.stem.weight",
    "segmenter.guidance.start.weight",
    "pat.vision_model.post_layernorm.weight",
    "logit_scale",
]


@pytest.mark.parametrize("key", [key for key in IMPORTANT if key != "segmenter.guidance.start.weight"])
def test_missing_tensor(segmenter, tmp_path, key):
    segmenter.save_pretrained(tmp_path)
    edit_tensors(tmp_path, lambda tensors: tensors.pop(key))
    refuses_to_load(tmp_path, re.escape(key), ValueError)


@pytest.mark.parametrize("key", [key for key in IMPORTANT if key != "logit_scale"])
def test_misshapen_tensor(segmenter, tmp_path, key):
    segmenter.save_pretrained(tmp_path)
    edit_tensors(tmp_path, lambda tensors: tensors.update({key: torch.zeros(3, 5)}))
    refuses_to_load(tmp_path, re.escape(key), ValueError)


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_truncated_file(segmenter, tmp_path, keep):
    segmenter.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refuses_to_load(tmp_path, f"{re.escape(str(tmp_path))}.*damaged", ValueError)


@pytest.mark.parametrize("lost", ["segmenter.guidance.", "segmenter.guidance.start.bias"])
def test_a_guided_checkpoint_without_its_guidance(segmenter, tmp_path, lost):
    segmenter.save_pretrained(tmp_path)
    edit_tensors(tmp_path, lambda tensors: [tensors.pop(key) for key in list(tensors) if key.startswith(lost)])
    refuses_to_load(tmp_path, "segmenter.guidance", ValueError)


def test_a_checkpoint_of_the_first_segmenter(segmenter, tmp_path):
    segmenter.save_pretrained(tmp_path)
    names = ("refiner.stem.weight", "vote.temperature")
    edit_tensors(tmp_path, lambda tensors: tensors.update({f"segmenter.{name}": torch.zeros(2) for name in names}))
    edit_tensors(tmp_path, lambda tensors: tensors.pop("segmenter.affinity.slope"))
    refuses_to_load(tmp_path, "early version of PAT.*train it again", ValueError)


def test_a_new_part_is_missing_whole_or_not_at_all(make_segmenter, tmp_path):
    make_segmenter(token_guidance=False).save_pretrained(tmp_path)
    edit_tensors(tmp_path, lambda tensors: tensors.update({"segmenter.guidance.start.bias": torch.zeros(8)}))
    with pytest.raises(ValueError, match="tensors are missing") as error:
        PatForSemanticSegmentation.from_pretrained(tmp_path, token_guidance=True)
    assert_one_line(error)


def test_a_tokenizer_checkpoint_with_half_a_segmenter(segmenter, tmp_path):
    segmenter.pat.save_pretrained(tmp_path)
    stem = segmenter.segmenter.stem
    edit_tensors(tmp_path, lambda tensors: tensors.update({"segmenter.stem.bias": stem.bias.detach().clone()}))
    refuses_to_load(tmp_path, "segmenter", ValueError)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config["text_config"].update(num_hidden_layers=1),
        lambda config: config["vision_config"].update(num_hidden_layers=3) or config.update(feature_layers=[[3]] * 3),
        lambda config: config.update(num_decoder_blocks=1),
    ],
    ids=["text layers", "vision layers", "decoder blocks"],
)
def test_left_over_tensors(segmenter, tmp_path, change):
    segmenter.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    change(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    refuses_to_load(tmp_path, "tensors have no place|needs", ValueError)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(segmenter, tmp_path, value):
    segmenter.save_pretrained(tmp_path)
    edit_tensors(tmp_path, lambda tensors: tensors["pat.pixel_head.bias"].fill_(value))
    refuses_to_load(tmp_path, "pat.pixel_head.bias holds values", ValueError)


def test_wrong_types_in_the_configuration(without_clip):
    refuses_to_load(without_clip(codebook_dim="eight"), "config.json is damaged.*codebook_dim", ValueError)


def test_the_caller_who_asks_for_the_loading_info_gets_it(segmenter, tmp_path):
    segmenter.save_pretrained(tmp_path)
    gone, misshapen = "segmenter.guidance.start.weight", "segmenter.stem.weight"
    edit_tensors(tmp_path, lambda tensors: (tensors.pop(gone), tensors.update({misshapen: torch.zeros(3, 5)})))
    model, info = PatForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {gone}
    assert [key for key, *_ in info["mismatched_keys"]] == [misshapen]
    assert torch.isfinite(model.segmenter.stem.weight).all()


def test_saving_leaves_the_configuration_alone(segmenter, tmp_path):
    segmenter.save_pretrained(tmp_path, save_clip=False)
    assert segmenter.config.clip_saved is True
    assert PatConfig.from_pretrained(tmp_path).clip_saved is False


# True size


@pytest.fixture(scope="module")
def true_size_config() -> PatConfig:
    """CLIP ViT-B/16 by its published shape; PAT by its defaults."""
    clip = CLIPConfig(
        vision_config={"patch_size": 16},
        text_config={"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1},
        projection_dim=512,
    )
    vision = clip.vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.image_size) == (768, 12, 224)
    return PatConfig(vision_config=vision.to_dict(), text_config=clip.text_config.to_dict())


@pytest.fixture(scope="module")
def true_size_model(true_size_config):
    """On the meta device: shapes, no memory."""
    with torch.device("meta"):
        return PatForSemanticSegmentation(true_size_config)


def test_trains_at_most_12_million_parameters(true_size_model):
    trained = [p.numel() for name, p in true_size_model.named_parameters() if not true_size_model.is_clip_key(name)]
    assert true_size_model.num_trainable_parameters == sum(trained) <= 12_000_000


def test_file_without_clip_is_under_50_megabytes(true_size_model):
    state = true_size_model.state_dict()
    saved = [tensor.nbytes for key, tensor in state.items() if not true_size_model.is_clip_key(key)]
    assert 0 < sum(saved) < 50_000_000


def test_true_size_clip(true_size_config, tmp_path):
    """ViT-B/16 with random weights: towers bit-equal, and five training steps leave them alone."""
    torch.manual_seed(0)
    clip = CLIPModel(
        CLIPConfig(
            vision_config=true_size_config.vision_config.to_dict(),
            text_config=true_size_config.text_config.to_dict(),
            projection_dim=512,
        )
    )
    clip.save_pretrained(tmp_path)
    model = PatForSemanticSegmentation.from_clip_pretrained(tmp_path)
    assert_towers_equal(model, clip)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items() if not model.is_clip_key(key)}
    text_embeds = torch.nn.functional.normalize(torch.randn(4, 512), dim=-1)
    # 48×64 pixels: whole towers, few patches.
    labels = torch.randint(0, 4, (2, 48, 64))
    inputs = {"pixel_values": random_images(2, 48, 64), "text_embeds": text_embeds, "labels": labels}
    train_steps(model, 5, learning_rate=1e-4, **inputs)
    assert_towers_equal(model, clip)
    unchanged = [key for key, tensor in before.items() if torch.equal(model.state_dict()[key], tensor)]
    assert not unchanged
