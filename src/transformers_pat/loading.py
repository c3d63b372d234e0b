"""Load a checkpoint for a command: by its name, a folder or "pat-nano", with errors of one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from PIL import Image
from transformers import PreTrainedConfig
from transformers.utils import logging

from . import PAT_NANO
from .modeling_pat import PatPreTrainedModel
from .processing_pat import PatProcessor

Model = TypeVar("Model", bound=PatPreTrainedModel)


def load_checkpoint(model_class: type[Model], checkpoint: str, **fields) -> tuple[Model, PatProcessor]:
    """
    Load a PAT model in eval mode and float32, on the accelerator if there is one, and its processor.

    Args:
        model_class: [`PatModel`] or [`PatForSemanticSegmentation`].
        checkpoint: Hub name or folder; "pat-nano" is the checkpoint that comes with the package.
        **fields: Fields of [`PatConfig`] to change.

    Raises:
        ValueError: If the checkpoint is damaged or not of a PAT model.
        OSError: If it can't be loaded.
    """
    place = PAT_NANO if checkpoint == "pat-nano" else checkpoint
    try:
        config, _ = PreTrainedConfig.get_config_dict(place)
    except OSError as error:
        raise OSError(f"no model {checkpoint}, neither as a folder nor on the Hub: {error}") from None
    if config.get("model_type") != "pat":
        kind = config.get("model_type", "unknown")
        raise ValueError(f"{checkpoint} is not a PAT checkpoint (its model type is {kind})")
    with no_progress_bars(), damage_in_one_line(checkpoint):
        processor = PatProcessor.from_pretrained(place)
        # What is damaged shows now, not at the first photo.
        tried = processor(images=[Image.new("RGB", (16, 16))], text=["word"], return_tensors="pt")
        if not tried["pixel_values"].isfinite().all():
            raise ValueError(f"{checkpoint} is damaged: its image processor makes pixels that are no numbers")
        model = model_class.from_pretrained(place, dtype=torch.float32, **fields).eval()
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return model.to(device), processor


@contextmanager
def damage_in_one_line(checkpoint: str) -> Iterator[None]:
    """Turn what libraries raise for a damaged file or an impossible value into a `ValueError` of one line."""
    try:
        yield
    except OSError as error:
        if error.__context__ is None:
            raise
        # transformers says where it looked, whatever happened.
        raise OSError(f"{checkpoint} can't be loaded: {str(error.__context__) or error}") from error
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        line = reason.splitlines()[0]
        if isinstance(error, ValueError) and line == reason:
            raise
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{checkpoint} is damaged: {kind}{line}") from error


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Turn off transformers' progress bars; afterwards they are as before."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
