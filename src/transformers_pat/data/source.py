"""From a line in a config or on the command line to a data set: folders, benchmarks, `datasets`, photos alone."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .base import BACKGROUND, IGNORE_INDEX, FolderDataset, PhotoFolder, SegmentationDataset
from .catalogue import open_benchmark
from .hub import HubRows, HubStream, load_rows


@dataclass(kw_only=True)
class DataSource:
    """
    One data set: exactly one of `folder`, `photos`, `dataset` and `benchmark`, and what belongs to it.

    Args:
        folder: Plain folder, see [`FolderDataset`].
        photos: Folder of photos without masks, for the tokenizer.
        dataset: Anything `datasets` loads: a Hub name, a folder, a parquet file or a pattern of them.
        benchmark: Name of a benchmark, with `root`, the folder of its download; see [`BENCHMARKS`].
        split: Which split of it.
        weight: Its share of the training batches, relative to the other sets'.
        image_column, label_column: Of a `dataset`; no label column means photos alone.
        classes: Of a `dataset`: file with lines "id: name".
        streaming: Of a `dataset`: read it as it arrives instead of downloading it first.
        ignore_index: Id of what is not labelled, in a `folder` or a `dataset`.
        ignored_classes: Of a `folder`: classes that count as not labelled, to hold them out of training.

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

    def __post_init__(self):
        if len(self._places()) != 1:
            raise ValueError(f"a data set needs one of folder, photos, dataset or benchmark, got {self._places()}")

    def _places(self) -> dict[str, str]:
        named = {name: getattr(self, name) for name in ("folder", "photos", "dataset", "benchmark")}
        return {name: place for name, place in named.items() if place}

    @property
    def name(self) -> str:
        """What reports call it, such as "camvid val"."""
        (place,) = self._places().values()
        return Path(place).name if self.photos else f"{Path(place).name} {self.split}"

    def open(self, strict: bool = True) -> SegmentationDataset:
        """
        The data set; with `strict`, files of a plain folder's or a benchmark's split that are not there are an error.

        Raises:
            ValueError: If it is not there or not complete.
        """
        if self.folder:
            return FolderDataset(self.folder, self.split, self.ignored_classes, self.ignore_index, strict)
        if self.photos:
            return PhotoFolder(self.photos)
        if self.benchmark:
            if not self.root:
                raise ValueError(f"benchmark {self.benchmark!r} needs root, the folder of its download")
            return open_benchmark(self.benchmark, self.root, self.split, strict)
        rows = load_rows(self.dataset, self.split, self.streaming)
        reader = HubStream if self.streaming else HubRows
        return reader(rows, self.image_column, self.label_column, self.classes, self.ignore_index)


def read_source(item: str | dict[str, Any]) -> DataSource:
    """
    A data set from "FOLDER:SPLIT", from the fields of [`DataSource`], or from these as JSON.

    Raises:
        ValueError: If the text is of another form or a field is unknown.
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
