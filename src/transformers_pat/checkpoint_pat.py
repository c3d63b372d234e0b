"""Loading and saving: frozen towers stay what they are, no tensor is ever made up, CLIP may be left out."""

import contextlib
import hashlib
import logging
from pathlib import Path

import torch
from huggingface_hub import HfApi, ModelCard
from transformers import CLIPModel
from transformers import logging as transformers_logging

from .model_card_pat import render_card
from .remote_code_pat import AUTO_MAP, CUSTOM_PIPELINES, copy_code

logger = transformers_logging.get_logger(__name__)

# Parts of a checkpoint that a tokenizer or a baseline rightly leaves aside.
KNOWN_PARTS = ("pat.", "segmenter.", "text_model.", "text_projection.", "logit_scale", "class_embeds")


@contextlib.contextmanager
def without_load_report():
    """Hold back transformers' table of missing keys, which would call a CLIP "newly initialized" that we fetch."""
    loader_logger = transformers_logging.get_logger("transformers.modeling_utils")

    def not_the_report(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    loader_logger.addFilter(not_the_report)
    try:
        yield
    finally:
        loader_logger.removeFilter(not_the_report)


def fingerprint(clip: CLIPModel) -> str:
    """Tells CLIPs of the same shape apart: a hash of all weights in float32."""
    digest = hashlib.sha256()
    for _, weights in sorted(clip.named_parameters()):
        digest.update(weights.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def read_clip(name: str, revision: str | None) -> CLIPModel:
    """
    A complete CLIP in float32.

    Raises:
        OSError: If it can't be had.
        ValueError: If it lacks a tensor, which transformers would make up.
    """
    with without_load_report():
        clip, info = CLIPModel.from_pretrained(
            name,
            revision=revision or "main",
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    damaged = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    if damaged:
        raise ValueError(f"{name} is not a complete CLIP: {len(damaged)} tensors are missing, such as {min(damaged)}.")
    return clip


class CheckpointMixin:
    """`from_pretrained`, `save_pretrained` and `push_to_hub` of both models."""

    # transformers' push_to_hub calls save_pretrained without arguments of ours.
    _save_clip_by_default = True

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path, *args, ignore_mismatched_sizes=False, output_loading_info=False, **kwargs
    ):
        """
        As in transformers, except that CLIP comes back frozen, that it is fetched if the checkpoint was saved without
        it, and that a damaged checkpoint is refused.

        Raises:
            ValueError: If a tensor is missing or misshapen, or if the CLIP on offer is another one.
            OSError: If the checkpoint or its CLIP can't be had.
        """
        with without_load_report():
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, ignore_mismatched_sizes=True, output_loading_info=True, **kwargs
            )
        if info["mismatched_keys"] and not ignore_mismatched_sizes:
            key, found, expected = sorted(info["mismatched_keys"])[0]
            raise ValueError(
                f"{pretrained_model_name_or_path}: tensor {key} is {tuple(found)} where this configuration needs "
                f"{tuple(expected)}. Was config.json edited, or do the files belong to different checkpoints?"
            )
        model._complete(info["missing_keys"], pretrained_model_name_or_path)
        unknown = {key for key in info["unexpected_keys"] if not key.startswith(KNOWN_PARTS)}
        if unknown:
            logger.warning(f"{pretrained_model_name_or_path}: ignored unknown tensors, such as {min(unknown)}.")
        model.freeze_clip()
        return (model, info) if output_loading_info else model

    def _complete(self, missing: set[str], source: str) -> None:
        """Fetch a CLIP that was left out; refuse a checkpoint that lacks what it should hold; report new parts."""
        missing_clip = {key for key in missing if self.is_clip_key(key)}
        same_class = type(self).__name__ in (self.config.architectures or [type(self).__name__])
        # A baseline may become a PAT, and a tokenizer a segmenter: only then are new weights what the user wants.
        may_be_new = ("segmenter.vote.",) if same_class else ("segmenter.", "class_embeds")
        new = {key for key in missing if key.startswith(may_be_new)}
        lost = missing - new
        if missing_clip and (not self.config.clip_saved or not same_class):
            self._fetch_clip()
            lost -= missing_clip
        if lost:
            raise ValueError(f"{source}: {len(lost)} tensors are missing, the first is {min(lost)}.")
        if new:
            logger.warning(f"{source}: new, untrained weights for {', '.join(sorted(new))}.")

    def _fetch_clip(self) -> None:
        name, revision = self.config.clip_name_or_path, self.config.clip_revision
        if name is None:
            raise ValueError("This checkpoint holds no CLIP and does not say which it belongs to (clip_name_or_path).")
        try:
            clip = read_clip(name, revision)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise OSError(
                f"This checkpoint was saved without its CLIP, {name}, which can't be loaded: {reason}"
            ) from None
        if self.config.clip_fingerprint not in (None, fingerprint(clip)):
            raise ValueError(f"{name} is not the CLIP that this checkpoint was trained with: its weights differ.")
        self.load_clip(clip)

    @torch.no_grad()
    def load_clip(self, clip: CLIPModel) -> None:
        """
        Copy a CLIP's weights into the frozen towers.

        Raises:
            ValueError: If a tensor is missing there or has another shape.
        """
        source = clip.state_dict()
        for key, target in self.state_dict().items():
            if not self.is_clip_key(key):
                continue
            tensor = source.get(key.removeprefix("pat."))
            if tensor is None or tensor.shape != target.shape:
                found = "missing" if tensor is None else tuple(tensor.shape)
                raise ValueError(f"This CLIP doesn't fit: {key} should be {tuple(target.shape)} and is {found}.")
            target.copy_(tensor)
        self.config.clip_fingerprint = fingerprint(clip)

    def save_pretrained(
        self,
        save_directory,
        save_clip: bool | None = None,
        state_dict: dict | None = None,
        push_to_hub=False,
        **kwargs,
    ):
        """
        As in transformers, with the code beside the weights for `trust_remote_code=True`.

        Args:
            save_directory: Folder to write.
            save_clip: `False` leaves CLIP out; `from_pretrained` then fetches `config.clip_name_or_path`. By default
                CLIP is saved too.

        Raises:
            ValueError: If CLIP is to be left out and it is not known where it came from.
        """
        save_clip = self._save_clip_by_default if save_clip is None else save_clip
        if not save_clip and self.config.clip_name_or_path is None:
            raise ValueError("save_clip=False needs config.clip_name_or_path: where should CLIP be fetched from?")
        state_dict = self.state_dict() if state_dict is None else state_dict
        if not save_clip:
            state_dict = {key: tensor for key, tensor in state_dict.items() if not self.is_clip_key(key)}
        self.config.clip_saved = save_clip
        self.config.auto_map = dict(AUTO_MAP)
        self.config.custom_pipelines = dict(CUSTOM_PIPELINES)
        super().save_pretrained(save_directory, state_dict=state_dict, **kwargs)
        copy_code(save_directory)
        if push_to_hub:
            hub_kwargs = {name: kwargs[name] for name in ("token", "private", "revision") if name in kwargs}
            self.push_to_hub(kwargs.get("repo_id") or Path(save_directory).name, save_clip=save_clip, **hub_kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        save_clip: bool = True,
        token: bool | str | None = None,
        private: bool | None = None,
        **kwargs,
    ):
        """As in transformers, with PAT's own model card if the repository has none yet, and CLIP only if wanted."""
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        self.config.clip_saved = save_clip
        card = render_card(self, repo_id)
        if card is not None and not api.file_exists(repo_id, "README.md"):
            ModelCard(card).push_to_hub(repo_id, token=token)
        self._save_clip_by_default = save_clip
        try:
            return super().push_to_hub(repo_id, token=token, private=private, **kwargs)
        finally:
            del self._save_clip_by_default
