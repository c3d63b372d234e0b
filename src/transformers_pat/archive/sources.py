"""Where photos come from: files, or rows of a data set that `datasets` loads."""

from pathlib import Path
from typing import Protocol

from ..data.base import IGNORE_INDEX
from ..data.hub import HubRows, load_rows, open_picture


class PhotoSource(Protocol):
    """The bytes of a photo, by the name that the archive keeps; `OSError` or `ValueError` if there are none."""

    def __call__(self, source: str) -> bytes:
        """Read one photo."""


def read_file(source: str) -> bytes:
    """The bytes of a file; an archive from elsewhere may name a device that never ends, which is none."""
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"no file {source}")
    return path.read_bytes()


class DatasetPhotos:
    """
    Photos of a data set; the archive keeps them as "NAME:SPLIT:ROW".

    Args:
        name: Hub name, folder, parquet file or a pattern of parquet files.
        split: Name of the split.
        image_column: Column of photos.

    Raises:
        ValueError: If `datasets` can't load it, or the column holds no pictures.
    """

    def __init__(self, name: str, split: str = "train", image_column: str = "image"):
        self._rows = HubRows(load_rows(name, split, streaming=False), image_column, None, None, IGNORE_INDEX)
        self._prefix = f"{name}:{split}:"

    @property
    def sources(self) -> list[str]:
        """Names of all photos."""
        return [f"{self._prefix}{row}" for row in range(len(self._rows))]

    def __call__(self, source: str) -> bytes:
        """The bytes of the photo as they are in the data set."""
        row = self._rows.rows[int(source.removeprefix(self._prefix))]
        picture = open_picture(row[self._rows.image_column] or {}, source)
        return Path(picture).read_bytes() if isinstance(picture, str) else picture.getvalue()
