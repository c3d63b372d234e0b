"""Which words a training step sees: a varying choice of class names and synonyms, with their embeddings."""

import json
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from ..modeling_pat import PatForSemanticSegmentation
from ..processing_pat import PatProcessor


class VocabularySampler:
    """
    Words for a data set's classes, varied so that the model does not learn one fixed list.

    Case is ignored: "Sky" and "sky" of two data sets are one word.

    Args:
        synonyms: Class name -> other words for it.
        templates: Prompt templates to choose from.
        seed: Seed of every choice.
        keep_absent: Share of the classes absent from a batch that are still among its words.
        max_words: Most words of a batch; classes that occur in it come first.
    """

    def __init__(
        self,
        synonyms: dict[str, list[str]],
        templates: tuple[str, ...],
        seed: int,
        keep_absent: float = 0.7,
        max_words: int = 255,
    ):
        self.synonyms, self.templates, self.seed = synonyms, templates, seed
        self.keep_absent, self.max_words = keep_absent, max_words
        self._embeds: dict[tuple[str, str], torch.Tensor] = {}

    def words_of(self, name: str) -> list[str]:
        """All words for a class."""
        return [name, *self.synonyms.get(name, ())]

    def embed(self, names: list[str], model: PatForSemanticSegmentation, processor: PatProcessor) -> None:
        """Embed every word of these classes in every template, on the model's device."""
        spellings = {word.casefold(): word for name in names for word in self.words_of(name)}
        words = [spellings[key] for key in sorted(spellings)]
        for template in tqdm(self.templates, desc="embedding words", leave=False):
            embeds = model.get_text_embeds(words, processor, templates=[template])
            self._embeds.update(((key, template), row) for key, row in zip(sorted(spellings), embeds, strict=True))

    def embeds(self, words: list[str], template: str) -> torch.Tensor:
        """(num_words, projection_dim) embeddings of words that [`embed`] was given."""
        return torch.stack([self._embeds[word.casefold(), template] for word in words])

    def __call__(self, names: list[str], present: torch.Tensor, number: int) -> tuple[list[str], list[int], str]:
        """
        Choose the words of a batch.

        Args:
            names: The data set's classes.
            present: (num_classes,) above 0 for those that occur in the batch, in any process.
            number: Number of the batch; the choice depends on this and the seed.

        Returns:
            Distinct words, the class of each, and one template for all of them.
        """
        rng = np.random.default_rng([self.seed, number])
        wanted = rng.random(len(names)) < self.keep_absent
        order = rng.permutation(len(names))
        ranked = [int(i) for i in order if present[i] > 0] + [int(i) for i in order if present[i] == 0 and wanted[i]]
        classes: dict[str, int] = {}
        taken: set[str] = set()
        for index in ranked[: self.max_words] or order[:1].tolist():
            free = [word for word in self.words_of(names[index]) if word.casefold() not in taken]
            if free:  # the pixels of a class whose words are all taken by other classes are ignored
                word = str(rng.choice(free))
                classes[word] = index
                taken.add(word.casefold())
        return list(classes), list(classes.values()), str(rng.choice(self.templates))


def renumber(
    labels: torch.Tensor, classes: list[int], num_classes: int, ignore_index: int, new_ignore_index: int
) -> torch.Tensor:
    """
    Turn indices of all classes into indices of the chosen ones.

    Args:
        labels: int64, 0 to `num_classes - 1` or `ignore_index`.
        classes: The chosen classes.
        num_classes: Number of all classes.
        ignore_index: Label of unlabelled pixels, the data set's.
        new_ignore_index: Label in the result of these and of classes that were not chosen, the model's.
    """
    table = torch.full((num_classes + 1,), new_ignore_index, dtype=torch.int64)  # the last entry is for unlabelled
    table[classes] = torch.arange(len(classes))
    return table[labels.masked_fill(labels == ignore_index, num_classes)]


def read_synonyms(path: str | Path | None) -> dict[str, list[str]]:
    """Read a JSON file {class name: [other words]}; nothing for None."""
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
