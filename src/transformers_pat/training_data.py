"""Batches for training on several data sets with different class lists: each batch comes from one set."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import IterableDataset

from .augmentation import TrainingView
from .data import FolderDataset


class VocabularySampler:
    """
    Words for a data set's classes, varied so that the model does not learn one fixed list.

    Args:
        synonyms: Class name -> other words for it.
        templates: Prompt templates to choose from.
        keep_absent: Share of the classes absent from a batch that are still asked for.
    """

    def __init__(self, synonyms: dict[str, list[str]], templates: tuple[str, ...], keep_absent: float = 0.7):
        self.synonyms, self.templates, self.keep_absent = synonyms, templates, keep_absent

    def __call__(
        self, names: list[str], labels: torch.Tensor, ignore_index: int, rng: np.random.Generator
    ) -> tuple[list[str], str, torch.Tensor]:
        """
        Returns:
            Distinct words, one template for all of them, and `labels` renumbered to index the words.
        """
        present = set(labels.unique().tolist())
        kept = [i for i in range(len(names)) if i in present or rng.random() < self.keep_absent]
        words: list[str] = []
        for index in kept:
            free = [word for word in (names[index], *self.synonyms.get(names[index], ())) if word not in words]
            words.append(str(rng.choice(free)))
        renumber = torch.full((ignore_index + 1,), ignore_index, dtype=torch.int64)
        renumber[kept] = torch.arange(len(kept))
        return words, str(rng.choice(self.templates)), renumber[labels]


class MixedBatches(IterableDataset):
    """
    Endless batches {pixel_values, labels, words, template}; batch `step` is the same whoever draws it, and whenever.

    Args:
        folders: Data set folder -> weight, the relative share of batches drawn from it.
        view: Augmentation.
        vocabulary: Sampler of words.
        batch_size: Images per batch.
        seed: Seed of every random choice.
        first_step: Where to start, for resuming.
    """

    def __init__(
        self,
        folders: dict[str, float],
        view: TrainingView,
        vocabulary: VocabularySampler,
        batch_size: int,
        seed: int = 0,
        ignore_index: int = 255,
        first_step: int = 0,
    ):
        self.sets = [FolderDataset(folder, "train") for folder in folders]
        weights = np.array(list(folders.values()), dtype=float)
        self.weights = weights / weights.sum()
        self.view, self.vocabulary, self.batch_size, self.seed = view, vocabulary, batch_size, seed
        self.ignore_index, self.first_step = ignore_index, first_step

    def __iter__(self) -> Iterator[dict]:
        worker = torch.utils.data.get_worker_info()
        offset, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        step = self.first_step + offset
        while True:
            yield self.batch(step)
            step += stride

    def batch(self, step: int) -> dict:
        """The batch of a step."""
        rng = np.random.default_rng([self.seed, step])
        dataset = self.sets[rng.choice(len(self.sets), p=self.weights)]
        views = []
        for index in rng.choice(len(dataset), self.batch_size, replace=len(dataset) < self.batch_size):
            sample = dataset[int(index)]
            views.append(self.view(sample.image, sample.labels, rng))
        pixel_values, labels = (torch.stack(part) for part in zip(*views, strict=True))
        words, template, labels = self.vocabulary(dataset.names, labels, self.ignore_index, rng)
        return {"pixel_values": pixel_values, "labels": labels, "words": words, "template": template}


def read_synonyms(path: str | Path | None) -> dict[str, list[str]]:
    """A JSON file {class name: [other words]}; nothing for None."""
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
