"""From words to class embeddings: CLIP's text tower, a cache of what it computed, and fixed vocabularies."""

from collections import OrderedDict
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from .configuration_pat import PatConfig
from .prompts_pat import check_labels, label_names
from .segmenter_pat import PatSegmenter


class TextEmbeddingCache:
    """
    Class embeddings of one text tower by (label, templates), the least recently used dropped first.

    It is emptied when the tower's weights have changed: loaded, cast, moved, updated in place, given or deprived of an
    adapter. Only a write through `.data` is invisible; call `clear()` after one. Copies and pickles of a cache are
    empty.

    Args:
        max_entries: Embeddings to keep; the default takes about 70 MB for 512 dimensions, Python's objects included
            (our choice).
    """

    def __init__(self, max_entries: int = 16_384):
        self.max_entries = max_entries
        self._entries: OrderedDict[tuple, torch.Tensor] = OrderedDict()
        self._version: tuple = ()

    def __len__(self) -> int:
        return len(self._entries)

    def __reduce__(self):
        return TextEmbeddingCache, (self.max_entries,)

    def clear(self) -> None:
        """Forget all embeddings."""
        self._entries.clear()

    def get(
        self,
        keys: list[tuple],
        compute: Callable[[list[tuple]], torch.Tensor],
        modules: tuple[nn.Module, ...],
    ) -> torch.Tensor:
        """
        Look embeddings up and compute those that are missing.

        Args:
            keys: Distinct keys.
            compute: From the missing keys to their embeddings, (num_missing, dim).
            modules: Whose weights `compute` uses.

        Returns:
            (num_keys, dim), in the order of `keys`.
        """
        version = weights_version(modules)
        if version != self._version:
            self.clear()
            self._version = version
        found = {key: self._entries[key] for key in keys if key in self._entries}
        missing = [key for key in keys if key not in found]
        if missing:
            # Cloned, because a row of a tensor keeps the whole tensor in memory.
            found.update((key, row.clone()) for key, row in zip(missing, compute(missing), strict=True))
        for key in keys:
            self._entries[key] = found[key]
            self._entries.move_to_end(key)
        while len(self._entries) > self.max_entries:
            self._entries.popitem(last=False)
        return torch.stack([found[key] for key in keys])


def weights_version(modules: tuple[nn.Module, ...]) -> tuple:
    """
    Compare equal for two calls if no weight of the modules was replaced or written to in between.

    A weak reference to a tensor's storage tells storages apart without keeping them alive; autograd counts writes.
    `requires_grad` tells which adapter is active.
    """
    return tuple(
        (
            StorageWeakRef(weight.untyped_storage()),
            0 if weight.is_inference() else weight._version,
            weight.requires_grad,
        )
        for module in modules
        for weight in module.parameters()
    )


class TextEmbeddingMixin:
    """Text side of [`PatForSemanticSegmentation`]: class embeddings of any words, and a fixed vocabulary."""

    # Prompts per forward of the text tower: enough for speed, bounded in memory for any vocabulary (our choice).
    text_batch_size = 256

    config: PatConfig
    device: torch.device
    dtype: torch.dtype
    text_model: nn.Module
    text_projection: nn.Linear
    text_cache: TextEmbeddingCache
    segmenter: PatSegmenter
    class_embeds: torch.Tensor | None

    @torch.no_grad()
    def get_text_embeds(self, labels: list[str], processor, templates: str | list[str] | None = None) -> torch.Tensor:
        """
        Class embeddings of any list of words, computed in batches and kept in `text_cache`.

        Args:
            labels: Words; ";" separates synonyms.
            processor: The checkpoint's [`PatProcessor`].
            templates: Name of a template set or templates of your own; the processor's by default.

        Returns:
            (num_labels, projection_dim), unit length, in the order of `labels`.

        Raises:
            ValueError: If the list is empty, or a label is empty, given twice or too long.
        """
        labels = check_labels(labels)
        chosen = processor.prompt_templates if templates is None else templates

        def compute(keys: list[tuple]) -> torch.Tensor:
            inputs = processor(text=[label for label, _ in keys], prompt_templates=chosen, return_tensors="pt")
            return self.encode_text(**inputs.to(self.device))

        keys = [(label, chosen if isinstance(chosen, str) else tuple(chosen)) for label in labels]
        embeds = self.text_cache.get(keys, compute, (self.text_model, self.text_projection))
        return embeds.to(self.device, self.dtype)

    @torch.no_grad()
    def encode_text(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        prompt_labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Class embeddings of tokenised prompts: the mean over all prompts of a label, of unit length.

        Args:
            input_ids: (num_prompts, length) int64.
            attention_mask: (num_prompts, length), 1 for tokens and 0 for padding.
            prompt_labels: (num_prompts,) int64, the label that each prompt belongs to; one label each by default.

        Returns:
            (num_labels, projection_dim).

        Raises:
            ValueError: If the token ids do not fit this text tower.
        """
        self._check_input_ids(input_ids)
        batches = []
        for start in range(0, len(input_ids), self.text_batch_size):
            rows = slice(start, start + self.text_batch_size)
            mask = None if attention_mask is None else attention_mask[rows]
            pooled = self.text_model(input_ids=input_ids[rows], attention_mask=mask, return_dict=True).pooler_output
            batches.append(F.normalize(self.text_projection(pooled), dim=-1))
        prompts = torch.cat(batches)
        if prompt_labels is None:
            return prompts
        sums = prompts.new_zeros(int(prompt_labels.max()) + 1, prompts.shape[1])
        return F.normalize(sums.index_add_(0, prompt_labels, prompts), dim=-1)

    def add_background(self, text_embeds: torch.Tensor) -> torch.Tensor:
        """
        Add what is learnt in training to fit places that fit none of the words (our choice).

        Args:
            text_embeds: (num_labels, projection_dim).

        Returns:
            (num_labels + 1, projection_dim), for [`forward`], [`segment_codes`] or [`segment_windows`]; the last label
            is the background.
        """
        return torch.cat([text_embeds, self.segmenter.background_embed[None].to(text_embeds.dtype)])

    def set_vocabulary(self, labels: list[str], processor, templates: str | list[str] | None = None) -> None:
        """
        Bake a fixed vocabulary into the model and its checkpoint, so that images alone are enough from then on.

        Writes `config.id2label`, `config.label2id` (names: [`label_names`]) and `class_embeds`.

        Args:
            labels: Words; ";" separates synonyms.
            processor: The checkpoint's [`PatProcessor`].
            templates: Name of a template set or templates of your own; the processor's by default.

        Raises:
            ValueError: If the list is empty, or a label is empty, given twice or too long.
        """
        self.class_embeds = self.get_text_embeds(labels, processor, templates)
        names = label_names(labels)
        self.config.id2label = dict(enumerate(names))
        self.config.label2id = {name: index for index, name in enumerate(names)}
        self.config.vocabulary_baked = True

    def resolve_text_embeds(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        prompt_labels: torch.Tensor | None = None,
        text_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Class embeddings from whatever the caller gave: prompts, embeddings, or the baked vocabulary.

        Returns:
            (num_labels, projection_dim).

        Raises:
            ValueError: If there are none, or they do not come from this model's text tower.
        """
        if input_ids is not None:
            return self.encode_text(input_ids, attention_mask, prompt_labels)
        if text_embeds is None:
            text_embeds = self.class_embeds
        if text_embeds is None:
            raise ValueError(
                "No words to segment by: pass input_ids (processor(text=[...])) or text_embeds "
                "(model.get_text_embeds), or call model.set_vocabulary once."
            )
        if text_embeds.ndim != 2 or text_embeds.shape[1] != self.config.projection_dim or not len(text_embeds):
            raise ValueError(
                f"text_embeds must be (num_labels, {self.config.projection_dim}), got {tuple(text_embeds.shape)}: "
                "they must come from this model's own text tower."
            )
        return text_embeds

    def _check_input_ids(self, input_ids: torch.Tensor) -> None:
        text_config = self.config.text_config
        highest = int(input_ids.max())
        # An id of 2 marks old CLIP configs, whose text tower looks for the highest token instead.
        has_end = text_config.eos_token_id == 2 or bool((input_ids == text_config.eos_token_id).any(1).all())
        if highest >= text_config.vocab_size or not has_end:
            raise ValueError(
                "These input_ids are not from this model's tokenizer: ids go to "
                f"{highest} and the text tower knows {text_config.vocab_size}, "
                f"end-of-text is {text_config.eos_token_id}."
            )
