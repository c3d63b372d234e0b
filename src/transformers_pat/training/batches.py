"""Training batches from several data sets with different class lists; a batch depends on seed and number alone."""

import itertools
from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Dataset

from ..data.base import BadSampleError, Sample, SegmentationDataset
from ..data.hub import HubStream
from .augmentation import TrainingView


class EpochDraws:
    """
    Endless draws from a data set, each epoch in another order.

    Args:
        dataset: What to draw from.
        seed: Draws with the same seed and number are equal in all processes.
        strict: Whether a sample that can't be used is an error; otherwise the next one takes its place.
    """

    def __init__(self, dataset: SegmentationDataset, seed: list[int], strict: bool):
        self.dataset, self.seed, self.strict = dataset, seed, strict
        self._order = (-1, np.empty(0, dtype=np.int64))

    def __call__(self, number: int, skipped: list[str]) -> tuple[Sample, np.random.Generator]:
        """
        Read sample `number`; also returns the random numbers of its augmentation, seeded by (seed, epoch, index).

        Messages about samples that were left out are appended to `skipped`.

        Raises:
            BadSampleError: With `strict`, if the sample is not usable.
            ValueError: If no sample is usable.
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
    """
    The same from a stream, which is read up to the sample.

    A sample more than `lookback` before the last one means reading the stream from its start again.
    """

    lookback = 64

    def __init__(self, stream: HubStream, seed: list[int], strict: bool):
        self.stream, self.seed, self.strict = stream, seed, strict
        self._start()

    def __call__(self, number: int, skipped: list[str]) -> tuple[Sample, np.random.Generator]:
        """Read sample `number`, as [`EpochDraws`] does."""
        first_epoch, index, row = self._row(number)
        epoch, rng = first_epoch, np.random.default_rng([*self.seed, first_epoch, index])
        while epoch <= first_epoch + 1:
            try:
                return self.stream.read(row, f"row {index} of epoch {epoch}"), rng
            except BadSampleError as error:
                if self.strict:
                    raise
                skipped.append(str(error))
            number += 1
            epoch, index, row = self._row(number)
        raise ValueError(f"no row of the stream can be used; the first: {skipped[0]}")

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
    Batches, each from one of several data sets.

    A batch has `pixel_values` (batch_size, 3, H, W); `noise` (batch_size,), see [`PatModel.forward`]; its `number`;
    and messages about `skipped` samples. With masks it also has `labels` (batch_size, H, W), the `names` that they
    index, the data set's `ignore_index`, and in `present` (num_classes,) the number of pixels of each class.

    All processes draw the same data set for the same batch, and each reads its own part of the samples: two processes
    with half the batch size see the samples of one process.

    Args:
        sources: Data sets and their weights, the relative share of the batches.
        view: Augmentation.
        batch_size: Images per batch and process.
        num_batches: Length of the run.
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
            StreamDraws(dataset, [seed, number], strict)
            if isinstance(dataset, HubStream)
            else EpochDraws(dataset, [seed, number], strict)
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
            stacked = torch.stack(labels)
            present = torch.bincount(stacked[stacked != dataset.ignore_index], minlength=len(dataset.names))
            batch |= {"labels": stacked, "ignore_index": dataset.ignore_index}
            batch |= {"names": dataset.names, "present": present}
        return batch
