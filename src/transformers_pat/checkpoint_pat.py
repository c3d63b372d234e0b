"""Loading and saving: damaged checkpoints are refused, CLIP may be left out and fetched, code travels along."""

import copy
import hashlib
import tempfile
from pathlib import Path

import torch
from huggingface_hub import HfApi
from transformers import CLIPModel, PreTrainedModel
from transformers import logging as transformers_logging

from .clip_features_pat import FrozenClipMixin
from .configuration_pat import PatConfig
from .hub_pat import AUTO_MAP, CUSTOM_PIPELINES, copy_code, render_card
from .transformers_internals_pat import load_unreported

logger = transformers_logging.get_logger(__name__)


def fingerprint(clip: CLIPModel) -> str:
    """Hash all weights in float32, which tells CLIPs of the same shape apart."""
    return hash_weights(dict(clip.named_parameters()))


def hash_weights(weights: dict[str, torch.Tensor]) -> str:
    """Hash tensors in float32, in the order of their names: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for _, tensor in sorted(weights.items()):
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def read_clip(name: str, revision: str | None) -> CLIPModel:
    """
    Load a complete CLIP in float32.

    Raises:
        OSError: If it cannot be found.
        ValueError: If it lacks a tensor, which transformers would initialise at random.
    """
    clip, info = load_unreported(CLIPModel.from_pretrained, name, revision=revision or "main", dtype=torch.float32)
    damaged = {*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])}
    if damaged:
        raise ValueError(f"{name} is not a complete CLIP: {len(damaged)} tensors are missing, such as {min(damaged)}.")
    return clip


class CheckpointMixin(FrozenClipMixin, PreTrainedModel):
    """`from_pretrained`, `from_clip_pretrained`, `save_pretrained` and `push_to_hub` of both models."""

    config: PatConfig

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path, *args, ignore_mismatched_sizes=False, output_loading_info=False, **kwargs
    ):
        """
        Load a checkpoint as in transformers, with CLIP frozen, and fetched if the checkpoint was saved without it.

        With `output_loading_info=True` nothing is refused for missing, misshapen or left-over tensors: the caller
        reads in the info what was initialised at random.

        Args:
            pretrained_model_name_or_path: Hub name or folder.
            *args: As in transformers.
            ignore_mismatched_sizes: Whether tensors that do not fit the configuration are initialised at random.
            output_loading_info: Whether to return the loading info too.
            **kwargs: As in transformers, and fields of [`PatConfig`].

        Raises:
            ValueError: If a file is damaged, a tensor is missing, misshapen, not finite or left over, or the CLIP on
                offer is another one.
            OSError: If the checkpoint or its CLIP cannot be found.
        """
        name = pretrained_model_name_or_path
        kwargs.setdefault("use_safetensors", True)  # PAT has never been saved as anything else
        model, info = load_unreported(super().from_pretrained, name, *args, **kwargs)
        if name is not None:
            saved, _ = PatConfig.get_config_dict(name, **kwargs)
            model._fetch_missing_clip(info["missing_keys"], saved)
            if not output_loading_info:
                model._check_tensors(info, saved, name, ignore_mismatched_sizes)
        model.freeze_clip()
        return (model, info) if output_loading_info else model

    @classmethod
    def from_clip_pretrained(cls, clip_name_or_path: str, revision: str | None = None, **config_kwargs):
        """
        Build a new, untrained PAT around any CLIP ViT checkpoint in transformers' format.

        Args:
            clip_name_or_path: Hub name or local folder of a `CLIPModel`.
            revision: Branch, tag or commit on the Hub.
            **config_kwargs: Fields of [`PatConfig`].

        Raises:
            OSError: If the CLIP cannot be found.
            ValueError: If it is damaged.
        """
        clip = read_clip(clip_name_or_path, revision)
        config = PatConfig(
            vision_config=clip.config.vision_config.to_dict(),
            text_config=clip.config.text_config.to_dict(),
            projection_dim=clip.config.projection_dim,
            logit_scale_init_value=clip.logit_scale.item(),
            clip_name_or_path=str(clip_name_or_path),
            clip_revision=revision,
            **config_kwargs,
        )
        model = cls(config)
        model.load_clip(clip)
        return model.eval()

    def _is_same_class(self, saved: dict) -> bool:
        return type(self).__name__ in (saved.get("architectures") or [type(self).__name__])

    def _fetch_missing_clip(self, missing: set[str], saved: dict) -> None:
        """Read the CLIP that a checkpoint rightly lacks, and drop its keys from `missing`."""
        lacking = {key for key in missing if self.is_clip_key(key)}
        may_lack = not saved.get("clip_saved", True) or not self._is_same_class(saved)
        if not lacking or not may_lack:
            return
        name, revision = self.config.clip_name_or_path, self.config.clip_revision
        if name is None:
            return
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
        missing -= lacking

    def _check_tensors(self, info: dict, saved: dict, name: str, ignore_mismatched_sizes: bool) -> None:
        """Refuse a checkpoint whose tensors do not belong to its configuration; report new parts."""
        if info["mismatched_keys"] and not ignore_mismatched_sizes:
            key, found, expected = sorted(info["mismatched_keys"])[0]
            raise ValueError(
                f"{name}: tensor {key} is {tuple(found)} where this configuration needs {tuple(expected)}. "
                "Was config.json edited, or do the files belong to different checkpoints?"
            )
        # What this model has and the saved one rightly lacked: a baseline may become a PAT, a tokenizer a segmenter.
        new_parts: list[str] = []
        if not self._is_same_class(saved):
            new_parts = ["segmenter.", "class_embeds"]
        elif not saved.get("token_guidance", True):
            new_parts = ["segmenter.guidance."]
        lost, own = set(info["missing_keys"]), set(self.state_dict())
        new: set[str] = set()
        for prefix in new_parts:
            part = {key for key in own if key.startswith(prefix)}
            if part <= lost:
                new |= part
        lost -= new
        if lost and all(self.is_clip_key(key) for key in lost) and self.config.clip_name_or_path is None:
            raise ValueError("This checkpoint holds no CLIP and does not say which it belongs to (clip_name_or_path).")
        if lost and any(key.startswith("segmenter.refiner.") for key in info["unexpected_keys"]):
            raise ValueError(f"{name} was made by an early version of PAT, with another segmenter: train it again.")
        if lost:
            raise ValueError(f"{name}: {len(lost)} tensors are missing, the first is {min(lost)}.")
        self._check_unexpected(info["unexpected_keys"], saved, name, ignore_mismatched_sizes)
        broken = [key for key, tensor in self.state_dict().items() if _is_broken(tensor)]
        if broken:
            raise ValueError(f"{name}: tensor {broken[0]} holds values that are not finite numbers.")
        if new:
            logger.warning(f"{name}: new, untrained weights for {', '.join(sorted(new))}.")

    def _check_unexpected(self, unexpected: set[str], saved: dict, name: str, warn_only: bool) -> None:
        """Refuse tensors that this model does not use, but for those that a smaller model rightly leaves aside."""
        left = {key for key in unexpected if not key.endswith("position_ids")}
        if not self._is_same_class(saved):
            left = {key for key in left if key.startswith("pat.")}
        if not self.config.token_guidance:
            left = {key for key in left if not key.startswith("segmenter.guidance.")}
        if not self.config.vocabulary_baked:
            left.discard("class_embeds")
        if not left:
            return
        message = f"{name}: {len(left)} tensors have no place in this configuration, such as {min(left)}."
        if not warn_only:
            raise ValueError(f"{message} Was config.json edited?")
        logger.warning(message)

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
        save_clip: bool = True,
        state_dict: dict | None = None,
        push_to_hub: bool = False,
        **kwargs,
    ):
        """
        Save as in transformers, with the code beside the weights for `trust_remote_code=True`.

        Args:
            save_directory: Folder to write.
            save_clip: `False` leaves CLIP out; `from_pretrained` then fetches `config.clip_name_or_path`.
            state_dict: Weights to save in place of the model's own.
            push_to_hub: Whether to call [`push_to_hub`] too.
            **kwargs: As in transformers.

        Raises:
            ValueError: If CLIP is to be left out and it is not known where it came from.
        """
        if not save_clip and self.config.clip_name_or_path is None:
            raise ValueError("save_clip=False needs config.clip_name_or_path: where should CLIP be fetched from?")
        state_dict = self.state_dict() if state_dict is None else state_dict
        if not save_clip:
            state_dict = {key: tensor for key, tensor in state_dict.items() if not self.is_clip_key(key)}
        super().save_pretrained(save_directory, state_dict=state_dict, **kwargs)
        if kwargs.get("is_main_process", True):
            config = copy.copy(self.config)
            config.clip_saved, config.auto_map, config.custom_pipelines = save_clip, AUTO_MAP, CUSTOM_PIPELINES
            config.save_pretrained(save_directory)
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
        max_shard_size: int | str = "50GB",
        commit_message: str = "Upload model",
        **kwargs,
    ) -> str:
        """
        Upload as in transformers, with PAT's own model card if the repository has none yet.

        Args:
            repo_id: Repository on the Hub.
            save_clip: `False` leaves CLIP out, see [`save_pretrained`].
            token: Access token.
            private: Whether a new repository is private.
            max_shard_size: Largest size of one weights file.
            commit_message: Message of the commit.
            **kwargs: `commit_description`, `revision`, `create_pr`.

        Returns:
            Address of the commit.
        """
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, save_clip=save_clip, max_shard_size=max_shard_size)
            card = render_card(self, repo_id, save_clip)
            if card is not None and not api.file_exists(repo_id, "README.md"):
                Path(folder, "README.md").write_text(card, encoding="utf-8")
            return api.upload_folder(
                repo_id=repo_id, folder_path=folder, commit_message=commit_message, **kwargs
            ).commit_url


def _is_broken(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.device.type != "meta" and not bool(tensor.isfinite().all())
