"""A tiny CLIP checkpoint and tiny PAT models around it: random weights, seeded, made in seconds and offline."""

import copy
import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from transformers.utils import logging

from transformers_pat.configuration_pat import PatConfig
from transformers_pat.modeling_pat import PatForSemanticSegmentation
from transformers_pat.processing_pat import PatProcessor
from transformers_pat.registration import register

from .support.tiny import (
    NUM_WORDS,
    PROJECTION_DIM,
    TINY_PAT,
    make_clip,
    make_config,
    make_tokenizer,
    random_images,
    save_tiny_checkpoint,
    train_steps,
)
from .support.training import mistake, workplace  # noqa: F401

logging.disable_progress_bar()
register()
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_accelerate_state():
    """Accelerate keeps the state of its first Accelerator for the whole process, even for processes forked off it."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory):
    """Folder of a complete tiny CLIP checkpoint: weights, tokenizer, image processor."""
    from transformers import CLIPImageProcessorPil

    folder = tmp_path_factory.mktemp("clip")
    make_clip().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    size = {"height": 32, "width": 32}
    CLIPImageProcessorPil(size=size, crop_size=size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """Folder of a tiny random PAT, with its processor."""
    folder = tmp_path_factory.mktemp("checkpoint")
    save_tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="session")
def make_segmenter(clip_folder):
    """Function that builds an untrained tiny segmenter, eval mode; keyword arguments are fields of `PatConfig`."""

    def make(**config_kwargs):
        torch.manual_seed(1)
        return PatForSemanticSegmentation.from_clip_pretrained(clip_folder, **{**TINY_PAT, **config_kwargs})

    return make


@pytest.fixture(scope="session")
def trained_segmenter(make_segmenter, pixel_values, text_embeds, labels):
    """Trained for some steps, so that no gate is shut and no codebook empty. Shared: tests use `segmenter`."""
    model = make_segmenter()
    train_steps(model, 4, learning_rate=1e-3, pixel_values=pixel_values, text_embeds=text_embeds, labels=labels)
    assert model.segmenter.guidance.start.weight.abs().max() > 0
    return model.eval()


@pytest.fixture(scope="session")
def export_processor(clip_folder):
    """The processor of `exported`."""
    return PatProcessor.from_clip_pretrained(clip_folder, size={"shortest_edge": 64}, prompt_templates="vild")


@pytest.fixture(scope="session")
def exported(trained_segmenter, export_processor, tmp_path_factory):
    """Folder of that segmenter as ONNX graphs."""
    from transformers_pat.export import export_onnx

    folder = tmp_path_factory.mktemp("export") / "onnx"
    export_onnx(trained_segmenter, export_processor, folder)
    return folder


@pytest.fixture
def segmenter(trained_segmenter):
    """A tiny `PatForSemanticSegmentation` of the test's own, slightly trained, eval mode."""
    return copy.deepcopy(trained_segmenter)


@pytest.fixture
def tokenizer_model(segmenter):
    """A tiny `PatModel` of the test's own, slightly trained, eval mode."""
    return segmenter.pat


@pytest.fixture
def untrained_config() -> PatConfig:
    """The configuration of the tiny models, without weights."""
    return make_config(make_clip(), **TINY_PAT)


@pytest.fixture(scope="session")
def pixel_values():
    """(3, 3, 40, 48): whole patches, not square, not CLIP's own size."""
    return random_images(3, 40, 48)


@pytest.fixture(scope="session")
def text_embeds():
    """Class embeddings of five imaginary words."""
    generator = torch.Generator().manual_seed(3)
    return F.normalize(torch.randn(NUM_WORDS, PROJECTION_DIM, generator=generator), dim=-1)


@pytest.fixture(scope="session")
def labels(pixel_values):
    """Label maps for `pixel_values` with some pixels to ignore."""
    batch, _, height, width = pixel_values.shape
    generator = torch.Generator().manual_seed(4)
    maps = torch.randint(0, NUM_WORDS, (batch, 1, 5, 6), generator=generator).float()
    maps = F.interpolate(maps, size=(height, width), mode="nearest")[:, 0].long()
    maps[:, :3] = 255
    return maps
