"""CLIP stays frozen and in eval mode, whatever is done to the model; everything else trains."""

import copy

import pytest
import torch
from accelerate import Accelerator, debug_launcher

from transformers_pat.modeling_pat import PatForSemanticSegmentation, PatModel

from ..support.tiny import random_images, train_steps


def assert_frozen(model) -> None:
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != model.is_clip_key(name), name
    for name, module in model.named_modules():
        if name and model.is_clip_key(name):
            assert not module.training, name
    assert model.num_trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad) > 0


@pytest.fixture(params=[PatModel, PatForSemanticSegmentation])
def loaded(request, segmenter, tmp_path):
    segmenter.save_pretrained(tmp_path)
    return request.param.from_pretrained(tmp_path)


def test_clip_parts_are_those_of_clip(segmenter):
    parts = {name.removeprefix("pat.").split(".")[0] for name in segmenter.state_dict() if segmenter.is_clip_key(name)}
    assert parts == {"vision_model", "visual_projection", "text_model", "text_projection", "logit_scale"}


@pytest.mark.parametrize("cls", [PatModel, PatForSemanticSegmentation])
def test_after_construction(cls, untrained_config):
    assert_frozen(cls(untrained_config))


def test_after_from_clip_pretrained(make_segmenter):
    assert_frozen(make_segmenter())


def test_after_from_pretrained(loaded):
    assert_frozen(loaded)


@pytest.mark.parametrize("save_clip", [True, False])
def test_after_loading_with_and_without_clip(segmenter, tmp_path, save_clip):
    segmenter.save_pretrained(tmp_path, save_clip=save_clip)
    assert_frozen(PatForSemanticSegmentation.from_pretrained(tmp_path))


def test_after_train_and_eval(loaded):
    assert_frozen(loaded.train())
    assert loaded.training and loaded.base_model.decoder.training
    assert_frozen(loaded.eval())
    assert not loaded.base_model.decoder.training


def test_after_casts_copies_and_attention_changes(loaded):
    assert_frozen(loaded.to(torch.bfloat16))
    assert_frozen(copy.deepcopy(loaded).train())
    loaded.set_attn_implementation("eager")
    loaded.activation_checkpointing_enable()
    assert_frozen(loaded.train())


def test_training_changes_every_trainable_tensor_and_no_other(segmenter, pixel_values, text_embeds, labels):
    before = copy.deepcopy(segmenter.state_dict())
    train_steps(segmenter, 5, pixel_values=pixel_values, text_embeds=text_embeds, labels=labels)
    for name, tensor in segmenter.state_dict().items():
        assert torch.equal(tensor, before[name]) == segmenter.is_clip_key(name), name


def train_in_this_process(model, folder, text_embeds, images, labels):
    """Three DDP steps, each process on its own images."""
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    torch.manual_seed(rank)
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    for _ in range(3):
        words = accelerator.unwrap_model(model).add_background(text_embeds)
        loss = model(images[rank], text_embeds=words, labels=labels[rank]).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    assert accelerator.num_processes == 2
    assert_frozen(accelerator.unwrap_model(model))
    torch.save(accelerator.unwrap_model(model).state_dict(), f"{folder}/{rank}.pt")
    accelerator.wait_for_everyone()


def test_two_processes_stay_equal(segmenter, text_embeds, tmp_path):
    before = copy.deepcopy(segmenter.state_dict())
    # Different images, and different numbers of them.
    images = [random_images(2, 32, 40, seed=0), random_images(1, 40, 40, seed=1)]
    labels = [torch.randint(0, len(text_embeds), image[:, 0].shape) for image in images]
    debug_launcher(train_in_this_process, (segmenter, tmp_path, text_embeds, images, labels), num_processes=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
        assert torch.equal(tensor, before[name]) == segmenter.is_clip_key(name), name
