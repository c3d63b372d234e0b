"""What transformers' common model tests ask of every model, for `PatModel` and `PatForSemanticSegmentation`."""

import copy
import inspect
import json
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForSemanticSegmentation

from transformers_pat.modeling_pat import PatForSemanticSegmentation, PatModel

from ..support.tiny import TINY_PAT, random_images, train_steps

BOTH = pytest.mark.parametrize("cls", [PatModel, PatForSemanticSegmentation])


@pytest.fixture(params=["PatModel", "PatForSemanticSegmentation"])
def model(request, segmenter):
    """Each of the two models in turn, slightly trained."""
    return segmenter.pat if request.param == "PatModel" else segmenter


@pytest.fixture
def inputs(model, pixel_values, text_embeds):
    """What `model.forward` needs."""
    if isinstance(model, PatModel):
        return {"pixel_values": pixel_values}
    return {"pixel_values": pixel_values, "text_embeds": text_embeds}


@pytest.fixture
def training_inputs(model, inputs, labels):
    """What `model.forward` needs to return a loss."""
    return inputs if isinstance(model, PatModel) else {**inputs, "labels": labels}


def main_output(output) -> torch.Tensor:
    """Logits of the segmenter, pixels of the tokenizer."""
    return output.logits if "logits" in output else output.reconstruction


def assert_same_output(one, other) -> None:
    """Every field that either has is bit-equal in the other."""
    assert list(one) == list(other)
    for name in one:
        pairs = zip(one[name], other[name], strict=True) if name == "codes" else [(one[name], other[name])]
        for left, right in pairs:
            assert torch.equal(left, right), name


@torch.no_grad()
def assert_same_model(one, other, inputs) -> None:
    assert_same_output(one(**inputs), other(**inputs))


# Saving and loading


def test_save_and_load(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert set(written) == set(model.state_dict())
    loaded = type(model).from_pretrained(tmp_path)
    assert not loaded.training
    assert_same_model(loaded, model, inputs)


def test_no_pickle_is_written(model, tmp_path):
    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors", ".json", ".py", ".md"}


def test_save_and_load_in_shards(model, inputs, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert_same_model(type(model).from_pretrained(tmp_path), model, inputs)


def test_save_load_save_keeps_the_keys(model, tmp_path):
    model.save_pretrained(tmp_path / "first")
    type(model).from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_loads_from_config_and_state_dict_without_a_file(model, inputs):
    loaded = type(model).from_pretrained(None, config=model.config, state_dict=model.state_dict())
    assert_same_model(loaded, model, inputs)


def test_state_dict_through_torch_save(model, inputs, tmp_path):
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = type(model)(model.config).eval()
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert_same_model(other, model, inputs)


def test_pickle_and_deepcopy(model, inputs):
    model(**inputs)  # hooks installed by a forward are what usually breaks pickling
    assert_same_model(pickle.loads(pickle.dumps(model)), model, inputs)
    assert_same_model(copy.deepcopy(model), model, inputs)


def test_tokenizer_loads_from_a_segmenter_checkpoint(segmenter, pixel_values, tmp_path, caplog):
    segmenter.save_pretrained(tmp_path)
    loaded, info = PatModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert_same_model(loaded, segmenter.pat, {"pixel_values": pixel_values})


def test_segmenter_loads_from_a_tokenizer_checkpoint(segmenter, pixel_values, text_embeds, tmp_path):
    segmenter.pat.save_pretrained(tmp_path)
    loaded, info = PatForSemanticSegmentation.from_pretrained(tmp_path, output_loading_info=True)
    assert all(key.startswith(("segmenter.", "text_", "logit_scale")) for key in info["missing_keys"])
    assert_same_model(loaded.pat, segmenter.pat, {"pixel_values": pixel_values})
    # What was not in the tokenizer's checkpoint: CLIP's text tower comes from CLIP, the segmenter starts anew.
    for key, tensor in segmenter.text_model.state_dict().items():
        assert torch.equal(loaded.text_model.state_dict()[key], tensor), key
    assert torch.equal(loaded.logit_scale, segmenter.logit_scale)
    assert not loaded.segmenter.guidance.start.weight.any() and not loaded.segmenter.guidance.start.bias.any()
    assert torch.isfinite(loaded(pixel_values, text_embeds=text_embeds).logits).all()


def test_auto_classes_load_the_right_class(segmenter, pixel_values, text_embeds, tmp_path):
    segmenter.save_pretrained(tmp_path)
    base, head = AutoModel.from_pretrained(tmp_path), AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert (type(base), type(head)) == (PatModel, PatForSemanticSegmentation)
    assert_same_model(head, segmenter, {"pixel_values": pixel_values, "text_embeds": text_embeds})


def test_mismatched_shapes_are_refused_unless_allowed(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="codebook"):
        type(model).from_pretrained(tmp_path, codebook_dim=4)
    loaded = type(model).from_pretrained(tmp_path, codebook_dim=4, ignore_mismatched_sizes=True)
    assert loaded.config.codebook_dim == 4
    assert torch.isfinite(main_output(loaded(**inputs))).all()


# dtypes


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
def test_half_precision_keeps_codebooks_in_float32(model, inputs, tmp_path, name):
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, **{name: torch.bfloat16})
    state = loaded.state_dict()
    codebook_keys = [key for key in state if "codebooks." in key]
    assert {state[key].dtype for key in codebook_keys} == {torch.float32}
    assert {tensor.dtype for key, tensor in state.items() if key not in codebook_keys} == {torch.bfloat16}
    output = main_output(loaded(**inputs))
    exact = main_output(model(**inputs))
    assert torch.cosine_similarity(output.float().flatten(), exact.flatten(), dim=0) > 0.95


def test_half_precision_checkpoint_comes_back_in_half_precision(model, tmp_path):
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).dtype == torch.bfloat16
    assert type(model).from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32


def test_training_under_autocast(model, training_inputs):
    with torch.autocast("cpu", torch.bfloat16):
        output = train_steps(model, 2, **training_inputs)
    assert torch.isfinite(output.loss)
    assert all(codebook.embed.dtype == torch.float32 for codebook in model.base_model.codebooks)


# Initialisation


@BOTH
def test_every_tensor_is_a_parameter_or_buffer(cls, untrained_config):
    """A plain tensor attribute would stay on the meta device when a checkpoint is loaded."""
    for name, module in cls(untrained_config).named_modules():
        loose = [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)]
        assert not loose, f"{name}: {loose}"


@BOTH
def test_can_be_built_on_the_meta_device(cls, untrained_config):
    with torch.device("meta"):
        model = cls(untrained_config)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}


@BOTH
def test_init_weights_fills_everything_that_is_missing(cls, untrained_config):
    """`from_pretrained` leaves raw memory where a tensor is missing and asks the model to fill it."""
    with torch.device("meta"):
        model = cls(untrained_config)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
    model.init_weights()
    built = cls(untrained_config).state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.isfinite(tensor).all(), key
        if not dict(model.named_parameters()).get(key, torch.empty(0)).numel():
            assert torch.equal(tensor, built[key]), key


def test_untrained_codes_are_distinct(untrained_config):
    for codebook in PatModel(untrained_config).codebooks:
        similarity = codebook.embed @ codebook.embed.T - 2 * torch.eye(codebook.num_codes)
        assert similarity.max() < 0.999


def test_sub_configs_are_the_models_own(segmenter):
    assert segmenter.pat.vision_model.config is segmenter.pat.config.vision_config
    assert segmenter.text_model.config is segmenter.config.text_config


def test_tiny_model_is_small(segmenter):
    assert sum(parameter.numel() for parameter in segmenter.parameters()) < 1_000_000


# Forward


def test_determinism(model, inputs):
    assert_same_model(model, model, inputs)


@torch.no_grad()
def test_a_batch_is_its_images_one_by_one(model, inputs):
    together = main_output(model(**inputs))
    for row, image in enumerate(inputs["pixel_values"]):
        alone = main_output(model(**{**inputs, "pixel_values": image[None]}))[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_tuple_output_is_the_dict_output(model, inputs):
    as_dict = model(**inputs)
    as_tuple = model(**inputs, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert len(as_tuple) == len(as_dict.to_tuple())
    model.config.return_dict = False
    assert isinstance(model(**inputs), tuple)
    for left, right in zip(as_dict.to_tuple(), as_tuple, strict=True):
        pairs = zip(left, right, strict=True) if isinstance(left, tuple) else [(left, right)]
        assert all(torch.equal(*pair) for pair in pairs)


def test_the_loss_comes_first(model, training_inputs):
    as_dict, as_tuple = model(**training_inputs), model(**training_inputs, return_dict=False)
    assert next(iter(as_dict)) == "loss"
    assert torch.equal(as_tuple[0], as_dict.loss)


def test_main_input_comes_first(model):
    parameters = list(inspect.signature(type(model).forward).parameters)
    assert parameters[1] == model.main_input_name == "pixel_values"


def test_get_and_set_embeddings(model, inputs):
    assert isinstance(model.get_input_embeddings(), nn.Module)
    before = main_output(model(**inputs))
    new = copy.deepcopy(model.get_input_embeddings())
    new.weight.data.neg_()
    model.set_input_embeddings(new)
    assert model.get_input_embeddings() is new
    assert not torch.equal(main_output(model(**inputs)), before)


# Training


def test_training_reaches_every_trainable_parameter(model, training_inputs):
    model.train()(**training_inputs).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert all(p.grad is None for name, p in model.named_parameters() if model.is_clip_key(name))


def test_loss_is_the_weighted_sum_of_its_parts(model, training_inputs):
    output, config = model(**training_inputs), model.config
    parts = [name for name in output if name.endswith("_loss")]
    expected = sum(getattr(config, f"{name}_weight") * output[name] for name in parts)
    torch.testing.assert_close(output.loss, expected)


def test_overfits_one_batch(model, inputs, labels):
    torch.manual_seed(0)
    model.config.level_dropout = 0.0
    inputs = {name: value[:1] if name == "pixel_values" else value for name, value in inputs.items()}
    if isinstance(model, PatForSemanticSegmentation):
        inputs["labels"] = labels[:1]
    first = model(**inputs)
    last = train_steps(model, 60, learning_rate=1e-2, **inputs)
    for name in [name for name in last if name.endswith("_loss") and name not in ("commitment_loss", "residual_loss")]:
        assert last[name] < 0.5 * first[name], name


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_gradient(model, training_inputs, reentrant):
    plain = gradients(copy.deepcopy(model), training_inputs)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
    assert model.is_activation_checkpointing
    checkpointed = gradients(copy.deepcopy(model), training_inputs)
    assert plain.keys() == checkpointed.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], checkpointed[name], msg=name)
    model.activation_checkpointing_disable()
    assert not model.is_activation_checkpointing


def gradients(model, inputs) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model.train()(**inputs).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def test_gradient_flows_to_the_words(segmenter, pixel_values, text_embeds, labels):
    """Needed for prompt tuning."""
    words = text_embeds.clone().requires_grad_()
    segmenter(pixel_values, text_embeds=words, labels=labels).loss.backward()
    assert words.grad.abs().sum() > 0


# Attention implementations


def attention_of(model) -> set[str]:
    towers = [module for module in model.modules() if type(module).__name__ in ("CLIPVisionModel", "CLIPTextModel")]
    return {tower.config._attn_implementation for tower in towers}


@torch.no_grad()
@pytest.mark.parametrize("dense_attention", ["self_self", "standard"])
def test_eager_equals_sdpa(model, inputs, tmp_path, dense_attention):
    model.config.dense_attention = dense_attention
    model.save_pretrained(tmp_path)
    eager = type(model).from_pretrained(tmp_path, attn_implementation="eager")
    sdpa = type(model).from_pretrained(tmp_path, attn_implementation="sdpa")
    assert (attention_of(eager), attention_of(sdpa)) == ({"eager"}, {"sdpa"})
    torch.testing.assert_close(main_output(eager(**inputs)), main_output(sdpa(**inputs)), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_attention_can_be_set_later(model, inputs):
    before = main_output(model(**inputs))
    model.set_attn_implementation("eager")
    assert attention_of(model) == {"eager"}
    torch.testing.assert_close(main_output(model(**inputs)), before, rtol=1e-4, atol=1e-4)
    model.set_attn_implementation("sdpa")
    assert torch.equal(main_output(model(**inputs)), before)


def test_attention_per_tower(segmenter, tmp_path):
    segmenter.save_pretrained(tmp_path)
    choice = {"vision_config": "eager", "text_config": "sdpa"}
    loaded = PatForSemanticSegmentation.from_pretrained(tmp_path, attn_implementation=choice)
    assert loaded.pat.vision_model.config._attn_implementation == "eager"
    assert loaded.text_model.config._attn_implementation == "sdpa"
    assert "attn_implementation" not in (tmp_path / "config.json").read_text()


# Compilation and placement


@torch.no_grad()
def test_compiles_in_one_graph_for_any_size(segmenter, text_embeds):
    """The `eager` backend checks the graph without the minute that code generation takes."""
    torch.compiler.reset()
    compiled = torch.compile(segmenter, backend="eager", fullgraph=True, dynamic=True)
    for size in ((40, 48), (56, 64)):
        pixel_values = random_images(2, *size)
        expected = segmenter(pixel_values, text_embeds=text_embeds).logits
        torch.testing.assert_close(compiled(pixel_values, text_embeds=text_embeds).logits, expected)


def test_compiled_training_step(segmenter, pixel_values, text_embeds, labels):
    torch.compiler.reset()
    compiled = torch.compile(segmenter.train(), backend="eager")
    compiled(pixel_values, text_embeds=text_embeds, labels=labels).loss.backward()
    assert all(p.grad is not None for p in segmenter.parameters() if p.requires_grad)


@torch.no_grad()
def test_exports_with_dynamic_batch(segmenter, pixel_values, text_embeds):
    inputs = {"pixel_values": pixel_values, "text_embeds": text_embeds}
    dynamic = {"pixel_values": {0: torch.export.Dim.AUTO}, "text_embeds": None}
    program = torch.export.export(segmenter, (), inputs, dynamic_shapes=dynamic, strict=False).module()
    one = {**inputs, "pixel_values": pixel_values[:1]}
    torch.testing.assert_close(program(**one).logits, segmenter(**one).logits)


@torch.no_grad()
def test_device_map(model, inputs, tmp_path):
    model.save_pretrained(tmp_path)
    for device_map in ("auto", {"": "cpu"}):
        assert_same_model(type(model).from_pretrained(tmp_path, device_map=device_map), model, inputs)


@torch.no_grad()
def test_untrained_model_runs(untrained_config, pixel_values, text_embeds):
    model = PatForSemanticSegmentation(untrained_config).eval()
    output = model(pixel_values, text_embeds=text_embeds)
    assert torch.isfinite(output.logits).all()
    assert [int(codes.max()) < size for codes, size in zip(output.codes, TINY_PAT["codebook_sizes"], strict=True)]
