"""Open a data set of any kind from one line of a config or of the command line."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..prompts_pat import BACKGROUND
from .base import IGNORE_INDEX, SegmentationDataset
from .catalogue import open_benchmark
from .folder import FolderDataset, PhotoFolder
from .hub import HubRows, HubStream, load_rows


@dataclass(kw_only=True)
class DataSource:
    """
    One data set: exactly one of `folder`, `photos`, `dataset` and `benchmark`, with its options.

    Args:
        folder: Plain folder, see [`FolderDataset`].
        photos: Folder of photos without masks, for training the tokenizer.
        dataset: Anything that `datasets` loads: a Hub name, a folder, a parquet file or a pattern of them.
        benchmark: Name of a benchmark, see [`BENCHMARKS`]; needs `root`.
        root: Folder that the benchmark's download was unpacked in.
        split: Name of the split.
        weight: Share of the training batches, relative to the other data sets'.
        image_column, label_column: Columns of a `dataset`; no label column means photos alone.
        classes: Class list of a `dataset`: file with lines "id: name".
        streaming: Read a `dataset` as it arrives instead of downloading it first.
        ignore_index: Id of unlabelled pixels in a `folder` or a `dataset`.
        ignored_classes: Classes of a `folder` that count as not labelled, to hold them out of training. Without
            "background" among them, the pixels of that class train the learned background.

    Raises:
        ValueError: If it names no data set or several.
    """

    folder: str | None = None
    photos: str | None = None
    dataset: str | None = None
    benchmark: str | None = None
    root: str | None = None
    split: str = "train"
    weight: float = 1.0
    image_column: str = "image"
    label_column: str | None = None
    classes: str | None = None
    streaming: bool = False
    ignore_index: int = IGNORE_INDEX
    ignored_classes: list[str] = field(default_factory=lambda: [BACKGROUND])

    def __post_init__(self) -> None:
        if len(self._places()) != 1:
            raise ValueError(f"a data set needs one of folder, photos, dataset or benchmark, got {self._places()}")

    def _places(self) -> dict[str, str]:
        named = {name: getattr(self, name) for name in ("folder", "photos", "dataset", "benchmark")}
        return {name: place for name, place in named.items() if place}

    @property
    def name(self) -> str:
        """Name in reports, such as "camvid val"."""
        (place,) = self._places().values()
        return Path(place).name if self.photos else f"{Path(place).name} {self.split}"

    def open(self, strict: bool = True) -> SegmentationDataset:
        """
        Open the data set.

        Args:
            strict: Whether a missing file of a `folder` or `benchmark` is an error; otherwise its sample is left out.

        Raises:
            ValueError: If the data set is missing or not complete.
        """
        if self.folder:
            return FolderDataset(self.folder, self.split, self.ignored_classes, self.ignore_index, strict)
        if self.photos:
            return PhotoFolder(self.photos)
        if self.benchmark:
            if not self.root:
                raise ValueError(f"benchmark {self.benchmark!r} needs root, the folder of its download")
            return open_benchmark(self.benchmark, self.root, self.split, strict)
        assert self.dataset is not None  # checked on creation
        rows = load_rows(self.dataset, self.split, self.streaming)
        reader = HubStream if self.streaming else HubRows
        return reader(rows, self.image_column, self.label_column, self.classes, self.ignore_index)


def read_source(item: str | dict[str, Any]) -> DataSource:
    """
    Read the description of a data set.

    Args:
        item: "FOLDER:SPLIT", or the fields of [`DataSource`] as a dictionary or as JSON.

    Raises:
        ValueError: If the text has another form or a field is unknown.
    """
    if isinstance(item, str) and not item.lstrip().startswith("{"):
        folder, colon, split = item.rpartition(":")
        return DataSource(folder=folder, split=split) if colon else DataSource(folder=item)
    try:
        values = json.loads(item) if isinstance(item, str) else item
    except json.JSONDecodeError as error:
        raise ValueError(f"data set {item!r} is no JSON: {error}") from None
    known = [known_field.name for known_field in fields(DataSource)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r} of a data set; there are {', '.join(known)}")
    return DataSource(**values)
