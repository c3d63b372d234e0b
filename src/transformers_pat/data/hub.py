"""Segmentation data from the `datasets` library: Hub names, parquet files, folders; downloaded or streamed."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .base import BadSampleError, Sample, SegmentationDataset, index_classes, read_classes, read_ids, read_photo

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


def load_rows(name: str, split: str, streaming: bool) -> "Dataset | IterableDataset":
    """
    Load a split with `datasets`.

    Args:
        name: Hub name, folder, parquet file or a pattern of parquet files.
        split: Name of the split.
        streaming: Read rows as they arrive instead of downloading them first.

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


class RowReader(SegmentationDataset):
    """
    Decodes rows of an image and a label map, or of an image alone.

    Pictures are decoded here and not by `datasets`, so that an unreadable one is reported by name.

    Args:
        rows: Rows with their pictures.
        image_column: Column of photos.
        label_column: Column of label maps (8- or 16-bit pictures of class ids); None for photos alone.
        classes: File with lines "id: name".
        ignore_index: Id of unlabelled pixels.

    Raises:
        ValueError: If a column is missing or holds no pictures, or label maps come without a class list.
    """

    def __init__(
        self,
        rows: "Dataset | IterableDataset",
        image_column: str,
        label_column: str | None,
        classes: str | None,
        ignore_index: int,
    ):
        import datasets

        self.ignore_index = ignore_index
        self.image_column, self.label_column = image_column, label_column
        self.names, self._to_labels = [], None
        if label_column is not None:
            if not classes:
                raise ValueError(f"label column {label_column!r} needs classes: a file with lines 'id: name'")
            if not Path(classes).is_file():
                raise ValueError(f"no class list {classes!r}")
            self.names, self._to_labels = index_classes(read_classes(classes), ignore_index)
        features = rows.features or {}
        for column in filter(None, (image_column, label_column)):
            if not isinstance(features.get(column), datasets.Image):
                raise ValueError(f"column {column!r} holds no pictures; the columns are {', '.join(features)}")
            rows = rows.cast_column(column, datasets.Image(decode=False))
        self.rows = rows

    def read(self, row: dict[str, Any], fallback_name: str) -> Sample:
        """Decode one row; [`BadSampleError`], naming it, if it is not usable."""
        picture = row[self.image_column] or {}
        file_name = Path(picture.get("path") or fallback_name).name
        image = read_photo(open_picture(picture, file_name), file_name)
        if self.label_column is None or self._to_labels is None:
            return Sample(image, None, file_name)
        ids = read_ids(open_picture(row[self.label_column] or {}, file_name), file_name)
        return Sample(image, self._to_labels(ids, image, file_name), file_name)


class HubRows(RowReader):
    """Random access to a `datasets.Dataset`."""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return self.read(self.rows[index], f"row {index}")


class HubStream(RowReader):
    """Sequential access to a `datasets.IterableDataset`, in another order every epoch, shuffled within a buffer."""

    shuffle_buffer = 256

    def epoch(self, epoch: int, seed: int) -> Iterator[dict[str, Any]]:
        """Rows of one epoch, not yet decoded; pass them to `read`."""
        shuffled = self.rows.shuffle(seed=seed, buffer_size=self.shuffle_buffer)
        shuffled.set_epoch(epoch)
        return iter(shuffled)


def open_picture(picture: dict[str, Any], file_name: str) -> io.BytesIO | str:
    """The file of a picture that `datasets` has not decoded; [`BadSampleError`] if it is empty."""
    if picture.get("bytes"):
        return io.BytesIO(picture["bytes"])
    if picture.get("path"):
        return picture["path"]
    raise BadSampleError(f"{file_name!r} is empty")
