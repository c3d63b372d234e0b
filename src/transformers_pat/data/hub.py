"""Segmentation data from the `datasets` library: Hub names, parquet files, folders; downloaded or streamed."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .base import BadSampleError, Sample, SegmentationDataset, index_classes, read_classes, read_ids, read_photo


def load_rows(name: str, split: str, streaming: bool):
    """
    A split by `datasets`, with its pictures not yet decoded, so that a broken one can be told by name.

    Args:
        name: Hub name, folder, or parquet file (or a pattern of them).
        split: Name of the split.
        streaming: Read rows as they arrive.

    Raises:
        ValueError: If `datasets` is not installed or can't load it.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError('this data set needs the datasets library: pip install "transformers_pat[train]"') from None
    try:
        if name.endswith(".parquet"):
            return datasets.load_dataset("parquet", data_files={split: name}, split=split, streaming=streaming)
        if Path(name, "dataset_info.json").is_file() or Path(name, "dataset_dict.json").is_file():
            saved = datasets.load_from_disk(name)
            rows = saved[split] if isinstance(saved, datasets.DatasetDict) else saved
            return rows.to_iterable_dataset() if streaming else rows
        return datasets.load_dataset(name, split=split, streaming=streaming)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(f"datasets can't load {name!r}, split {split!r}: {error}") from None


class HubRows(SegmentationDataset):
    """
    Rows with an image and, unless only the tokenizer is trained, a label map; random access.

    Args:
        rows: A `datasets.Dataset` or `datasets.IterableDataset`.
        image_column: Column of photos.
        label_column: Column of label maps (8- or 16-bit pictures of class ids); None for photos alone.
        classes: File with lines "id: name".
        ignore_index: Id of what is not labelled.

    Raises:
        ValueError: If a column is missing or holds no pictures, or label maps come without a class list.
    """

    def __init__(self, rows, image_column: str, label_column: str | None, classes: str | None, ignore_index: int):
        import datasets

        self.ignore_index = ignore_index
        self.image_column, self.label_column = image_column, label_column
        if label_column and not classes:
            raise ValueError(f"label column {label_column!r} needs classes: a file with lines 'id: name'")
        self.names, self._to_labels = [], None
        if label_column:
            if not Path(classes).is_file():
                raise ValueError(f"no class list {classes!r}")
            self.names, self._to_labels = index_classes(read_classes(classes), ignore_index)
        features = rows.features or {}
        for column in filter(None, (image_column, label_column)):
            if not isinstance(features.get(column), datasets.Image):
                raise ValueError(f"column {column!r} holds no pictures; the columns are {', '.join(features)}")
            rows = rows.cast_column(column, datasets.Image(decode=False))
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return self.read(self.rows[index], f"row {index}")

    def read(self, row: dict[str, Any], fallback_name: str) -> Sample:
        """Decode one row; [`BadSampleError`], naming it, if it can't be read or does not fit."""
        picture = row[self.image_column] or {}
        file_name = Path(picture.get("path") or fallback_name).name
        image = read_photo(_open(picture, file_name), file_name)
        if self._to_labels is None:
            return Sample(image, None, file_name)
        ids = read_ids(_open(row[self.label_column] or {}, file_name), file_name)
        return Sample(image, self._to_labels(ids, image, file_name), file_name)


class HubStream(HubRows):
    """The same for a stream: rows come in an order of their own every epoch, shuffled within a buffer."""

    shuffle_buffer = 256

    def __len__(self) -> int:
        raise TypeError("a stream has no length")

    def epoch(self, epoch: int, seed: int) -> Iterator[dict[str, Any]]:
        """Undecoded rows of one epoch."""
        shuffled = self.rows.shuffle(seed=seed, buffer_size=self.shuffle_buffer)
        shuffled.set_epoch(epoch)
        return iter(shuffled)


def _open(picture: dict[str, Any], file_name: str):
    if picture.get("bytes"):
        return io.BytesIO(picture["bytes"])
    if picture.get("path"):
        return picture["path"]
    raise BadSampleError(f"{file_name!r} is empty")
