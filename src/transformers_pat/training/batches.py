"""Training batches from several data sets with different class lists, each batch known from its number alone."""

import itertools
import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ..data.base import BadSampleError, Sample, SegmentationDataset
from ..data.hub import HubStream
from .augmentation import TrainingView


class EpochDraws:
    """
    Endless draws from a data set, every epoch in an order of its own.

    Args:
        dataset: What to draw from.
        seed: Two draws with the same seed and number are the same, whoever draws them.
        strict: Whether a sample that can't be used is an error; otherwise the next one takes its place.
    """

    def __init__(self, dataset: SegmentationDataset, seed: list[int], strict: bool):
        self.dataset, self.seed, self.strict = dataset, seed, strict
        self._order = (-1, np.empty(0))

    def __call__(self, number: int, skipped: list[str]) -> tuple[Sample, np.random.Generator]:
        """
        Sample `number` and the source of its augmentation, seeded per (seed, epoch, index).

        Messages about samples that were left out are appended to `skipped`.
        """
        epoch, position = divmod(number, len(self.dataset))
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([*self.seed, epoch]).permutation(len(self.dataset)))
        order = self._order[1]
        rng = np.random.default_rng([*self.seed, epoch, int(order[position])])
        for index in np.roll(order, -position):
            try:
                return self.dataset[int(index)], rng
            except BadSampleError as error:
                if self.strict:
                    raise
                skipped.append(str(error))
        raise ValueError(f"none of the {len(self.dataset)} samples can be used; the first: {skipped[0]}")


class StreamDraws:
    """The same from a stream, which is read on to the sample asked for; going far back means starting again."""

    lookback = 64

    def __init__(self, stream: HubStream, seed: list[int], strict: bool):
        self.stream, self.seed, self.strict = stream, seed, strict
        self._start()

    def __call__(self, number: int, skipped: list[str]) -> tuple[Sample, np.random.Generator]:
        epoch, index, row = self._row(number)
        rng = np.random.default_rng([*self.seed, epoch, index])
        while True:
            try:
                return self.stream.read(row, f"row {index} of epoch {epoch}"), rng
            except BadSampleError as error:
                if self.strict:
                    raise
                skipped.append(str(error))
            number += 1
            _, index, row = self._row(number)

    def _start(self) -> None:
        self._rows = self._read_on()
        self._recent: deque[tuple[int, int, dict]] = deque(maxlen=self.lookback)
        self._next = 0

    def _row(self, number: int) -> tuple[int, int, dict]:
        if number < self._next - len(self._recent):
            self._start()
        while self._next <= number:
            self._recent.append(next(self._rows))
            self._next += 1
        return self._recent[number - self._next]

    def _read_on(self) -> Iterator[tuple[int, int, dict]]:
        """(epoch, index, row) of one epoch after the other."""
        for epoch in itertools.count():
            index = -1
            for index, row in enumerate(self.stream.epoch(epoch, seed=sum(self.seed))):
                yield epoch, index, row
            if index < 0:
                raise ValueError("the stream has no rows")


class TrainingBatches(Dataset):
    """
    Batches, each from one of several data sets: `pixel_values` (batch_size, 3, H, W); `noise` (batch_size,), see
    [`PatModel.forward`]; the batch's `number`; messages about `skipped` samples; and for sets with masks `labels`
    (batch_size, H, W), -1 where unknown, the `names` that they index, and how many pixels of each are `present`.

    All processes draw the same data set for the same batch, and each its own part of the samples: two processes with
    half the batch size see what one process sees.

    Args:
        sources: Data set and weight, its share of the batches.
        view: Augmentation.
        batch_size: Images per batch and process.
        num_batches: How many there are.
        seed: Seed of every random choice.
        process_index, num_processes: Which part of each batch to load.
        strict: Whether a sample that can't be used is an error; otherwise it is left out and named in `skipped`.
    """

    def __init__(
        self,
        sources: list[tuple[SegmentationDataset, float]],
        view: TrainingView,
        batch_size: int,
        num_batches: int,
        seed: int,
        process_index: int = 0,
        num_processes: int = 1,
        strict: bool = False,
    ):
        self.datasets = [dataset for dataset, _ in sources]
        self.draws = [
            (StreamDraws if isinstance(dataset, HubStream) else EpochDraws)(dataset, [seed, number], strict)
            for number, dataset in enumerate(self.datasets)
        ]
        self.view, self.batch_size = view, batch_size
        self.first_row, self.batch_total = process_index * batch_size, num_processes * batch_size
        weights = np.cumsum([weight for _, weight in sources])
        # Drawn one after the other, so that a longer run starts like a shorter one.
        draws = np.random.default_rng(seed).random(num_batches) * weights[-1]
        self.chosen = np.searchsorted(weights, draws, side="right")
        self.turn = np.zeros(num_batches, dtype=np.int64)
        for number in range(len(sources)):
            self.turn[self.chosen == number] = np.arange((self.chosen == number).sum())

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> dict:
        chosen = self.chosen[number]
        dataset, first = self.datasets[chosen], self.turn[number] * self.batch_total + self.first_row
        skipped: list[str] = []
        views = []
        for row in range(first, first + self.batch_size):
            sample, rng = self.draws[chosen](row, skipped)
            views.append((*self.view(sample.image, sample.labels, rng), rng.random()))
        pixel_values, labels, noise = zip(*views, strict=True)
        batch = {
            "pixel_values": torch.stack(pixel_values),
            "noise": torch.tensor(noise, dtype=torch.float32),
            "skipped": skipped,
            "number": number,
        }
        if dataset.names:
            known = torch.stack(labels)
            batch["labels"] = known.masked_fill(known == dataset.ignore_index, -1)
            batch["names"] = dataset.names
            batch["present"] = torch.bincount(batch["labels"].flatten() + 1, minlength=len(dataset.names) + 1)[1:]
        return batch


class VocabularySampler:
    """
    Words for a data set's classes, varied so that the model does not learn one fixed list.

    Args:
        synonyms: Class name -> other words for it.
        templates: Prompt templates to choose from.
        seed: Seed of every choice.
        keep_absent: Share of the classes absent from a batch that are still asked for.
        max_words: Most words asked for at once; classes in the batch come first.
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
        # (word, template) -> class embedding, filled before training.
        self.embeds: dict[tuple[str, str], torch.Tensor] = {}

    def all_words(self, names: list[str]) -> list[str]:
        """Every word that may be asked for."""
        return list(dict.fromkeys(word for name in names for word in (name, *self.synonyms.get(name, ()))))

    def __call__(self, names: list[str], present: torch.Tensor, number: int) -> tuple[list[str], list[int], str]:
        """
        Args:
            names: The data set's classes.
            present: (num_classes,) above 0 for those that occur in batch `number`, in any process.

        Returns:
            Distinct words, the class of each, and one template for all of them.
        """
        rng = np.random.default_rng([self.seed, number])
        wanted = rng.random(len(names)) < self.keep_absent
        order = rng.permutation(len(names))
        ranked = [int(i) for i in order if present[i] > 0] + [int(i) for i in order if present[i] == 0 and wanted[i]]
        words: dict[str, int] = {}
        for index in ranked[: self.max_words] or order[:1].tolist():
            free = [word for word in (names[index], *self.synonyms.get(names[index], ())) if word not in words]
            if free:  # A class whose words are all taken by others can't be told from them: its pixels are ignored.
                words[str(rng.choice(free))] = index
        return list(words), list(words.values()), str(rng.choice(self.templates))


def renumber(labels: torch.Tensor, classes: list[int], num_classes: int, ignore_index: int) -> torch.Tensor:
    """Labels that index all classes, -1 where unknown, to labels that index the `classes` asked for."""
    table = torch.full((num_classes + 1,), ignore_index, dtype=torch.int64)  # the last entry is that of -1
    table[classes] = torch.arange(len(classes))
    return table[labels]


def read_synonyms(path: str | Path | None) -> dict[str, list[str]]:
    """A JSON file {class name: [other words]}; nothing for None."""
    return json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
