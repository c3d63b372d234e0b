"""Which words a training step sees: a varying choice of class names and synonyms, with their embeddings."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ..data.base import BACKGROUND, SegmentationDataset
from ..modeling_pat import PatForSemanticSegmentation
from ..processing_pat import PatProcessor


class BatchWords(NamedTuple):
    """
    The words of a batch.

    Args:
        words: Distinct words.
        classes: The class of each.
        background: Classes without a word, whose pixels fit none of the words.
        template: The template of all words.
    """

    words: list[str]
    classes: list[int]
    background: list[int]
    template: str


class VocabularySampler:
    """
    Words for a data set's classes, varied so that the model does not learn one fixed list.

    Case is ignored: "Sky" and "sky" of two data sets are one word. A class "background" is no word: its pixels train
    the learned background.

    Args:
        synonyms: Class name -> other words for it.
        templates: Prompt templates to choose from.
        seed: Seed of every choice.
        keep_absent: Share of the classes absent from a batch that are still among its words.
        leave_out: Share of the classes present in a batch that have no word; their pixels are background, which fits
            none of the words.
        max_words: Most words of a batch; classes that occur in it come first.
    """

    def __init__(
        self,
        synonyms: dict[str, list[str]],
        templates: tuple[str, ...],
        seed: int,
        keep_absent: float = 0.7,
        leave_out: float = 0.1,
        max_words: int = 255,
    ):
        self.synonyms, self.templates, self.seed = synonyms, templates, seed
        self.keep_absent, self.leave_out, self.max_words = keep_absent, leave_out, max_words
        self._embeds: dict[tuple[str, str], torch.Tensor] = {}

    def words_of(self, name: str) -> list[str]:
        """All words for a class."""
        return [name, *self.synonyms.get(name, ())]

    def embed(self, names: list[str], model: PatForSemanticSegmentation, processor: PatProcessor) -> None:
        """Embed every word of these classes in every template, on the model's device."""
        spellings = {word.casefold(): word for name in names for word in self.words_of(name)}
        words = [spellings[key] for key in sorted(spellings.keys() - {BACKGROUND})]
        for template in tqdm(self.templates, desc="embedding words", leave=False):
            embeds = model.get_text_embeds(words, processor, templates=[template])
            self._embeds.update(((word.casefold(), template), row) for word, row in zip(words, embeds, strict=True))

    def embeds(self, words: list[str], template: str) -> torch.Tensor:
        """(num_words, projection_dim) embeddings of words that [`embed`] was given."""
        return torch.stack([self._embeds[word.casefold(), template] for word in words])

    def __call__(self, names: list[str], present: torch.Tensor, number: int) -> BatchWords:
        """
        Choose the words of a batch.

        Args:
            names: The data set's classes.
            present: (num_classes,) above 0 for those that occur in the batch, in any process.
            number: Number of the batch; the choice depends on this and the seed.
        """
        rng = np.random.default_rng([self.seed, number])
        chance, order = rng.random(len(names)), rng.permutation(len(names)).tolist()
        nothing = [index for index in order if names[index].casefold() == BACKGROUND]
        order = [index for index in order if index not in nothing]
        here = [index for index in order if present[index] > 0]
        kept = [index for index in here if chance[index] >= self.leave_out] or here[:1]
        ranked = kept + [index for index in order if present[index] == 0 and chance[index] < self.keep_absent]
        classes: dict[str, int] = {}
        taken: set[str] = set()
        for index in ranked[: self.max_words] or order[:1]:
            free = [word for word in self.words_of(names[index]) if word.casefold() not in taken]
            if free:  # the pixels of a class whose words are all taken by other classes are ignored
                word = str(rng.choice(free))
                classes[word] = index
                taken.add(word.casefold())
        background = [index for index in here if index not in kept or index in ranked[self.max_words :]]
        return BatchWords(list(classes), list(classes.values()), nothing + background, str(rng.choice(self.templates)))


def renumber(
    labels: torch.Tensor, words: BatchWords, num_classes: int, ignore_index: int, new_ignore_index: int
) -> torch.Tensor:
    """
    Turn indices of all classes into those of a batch's words, and one more for the background.

    Args:
        labels: int64, 0 to `num_classes - 1` or `ignore_index`.
        words: The batch's words.
        num_classes: Number of all classes.
        ignore_index: Label of unlabelled pixels, the data set's.
        new_ignore_index: Label in the result of these and of all other classes, the model's.
    """
    table = torch.full((num_classes + 1,), new_ignore_index, dtype=torch.int64)  # the last entry is for unlabelled
    table[words.classes] = torch.arange(len(words.classes))
    table[words.background] = len(words.classes)
    return table[labels.masked_fill(labels == ignore_index, num_classes)]


def read_synonyms(path: str | Path | None) -> dict[str, list[str]]:
    """Read a JSON file {class name: [other words]}; nothing for None."""
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}


def list_words(datasets: list[SegmentationDataset]) -> list[str]:
    """The class names of all data sets, each once whatever its case, without "background"."""
    names = (name for dataset in datasets for name in dataset.names if name.lower() != BACKGROUND)
    return list({name.lower(): name for name in names}.values())


def has_background(dataset: SegmentationDataset) -> bool:
    """Whether pixels of a data set train the learned background by a class of that name."""
    return any(name.lower() == BACKGROUND for name in dataset.names)
