"""A reader for segmentation data kept as plain folders.

The form, one folder per data set::

    images/NAME.jpg (or .jpeg, .png)   the photos
    masks/NAME.png                     one class id per pixel, 8 or 16 bits, 255 = not labelled
    classes.txt                        lines "id: name"
    splits/SPLIT.txt                   one NAME per line
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

IGNORE_INDEX = 255
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")


class Sample(NamedTuple):
    """One photo with its labels.

    `image`: RGB `PIL.Image` of size (width, height). `labels`: int64 array of shape (height, width), an index into
    `FolderDataset.names` or the ignore index where nothing is known. `file_name`: the photo's file name.
    """

    image: Image.Image
    labels: np.ndarray
    file_name: str


def read_classes(path: str | Path) -> dict[int, str]:
    """Reads a `classes.txt` (lines "id: name") into `{id: name}`; `ValueError` on a line of another form."""
    classes: dict[int, str] = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        number, colon, name = line.partition(":")
        if not (colon and number.strip().isdigit() and name.strip()):
            raise ValueError(f"{path}: expected lines 'id: name', got {line!r}")
        if int(number) in classes:
            raise ValueError(f"{path}: class id {int(number)} is listed twice")
        classes[int(number)] = name.strip()
    if not classes:
        raise ValueError(f"{path}: no classes in this file")
    return classes


class FolderDataset:
    """A split of a plain-folder segmentation data set: `len()`, indexing and iteration over `Sample`s.

    Args:
        folder: the data set's folder, with `images/`, `masks/`, `classes.txt` and `splits/`.
        split: which `splits/SPLIT.txt` to read.
        ignore_index: the id of what is not labelled, in the files and in `labels`; 65535 where 255 is a class.
        ignore_background: leave a class called "background" out of `names`; its pixels are ignored.

    `names` holds the class names in id order and `labels` of every sample index into it (ids are renumbered when the
    class list has gaps or loses its background).

    Raises:
        ValueError: a missing folder, class list or split; a split that names a photo without file or mask (on
            creation); a mask with an id beyond the class list or of another size than its photo (on reading).
    """

    def __init__(
        self, folder: str | Path, split: str, ignore_background: bool = True, ignore_index: int = IGNORE_INDEX
    ):
        self.folder, self.ignore_index = Path(folder), ignore_index
        if not self.folder.is_dir():
            raise ValueError(f"no data folder {str(self.folder)!r}")
        for part in ("images", "masks", "splits"):
            if not (self.folder / part).is_dir():
                raise ValueError(f"data folder {str(self.folder)!r} has no {part}/")
        if not (self.folder / "classes.txt").is_file():
            raise ValueError(f"data folder {str(self.folder)!r} has no classes.txt")
        self.split = split
        self.stems = self._read_split()
        self._photos = {path.stem: path for path in (self.folder / "images").iterdir() if _is_photo(path)}
        for stem in self.stems:
            self._check_files(stem)
        classes = read_classes(self.folder / "classes.txt")
        kept = [i for i in sorted(classes) if not (ignore_background and classes[i].lower() == "background")]
        self.names = [classes[i] for i in kept]
        self._known = set(classes)
        self._lookup = np.full(2**16, self.ignore_index, dtype=np.int64)
        self._lookup[kept] = np.arange(len(kept))

    def _read_split(self) -> list[str]:
        path = self.folder / "splits" / f"{self.split}.txt"
        if not path.is_file():
            found = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
            raise ValueError(f"data folder {str(self.folder)!r} has no split {self.split!r} (found: {found})")
        stems = path.read_text(encoding="utf-8").split("\n")
        stems = [stem.strip() for stem in stems if stem.strip()]
        if not stems:
            raise ValueError(f"split {self.split!r} of {str(self.folder)!r} is empty")
        return stems

    def _check_files(self, stem: str) -> None:
        if stem not in self._photos:
            images = str(self.folder / "images")
            raise ValueError(f"split {self.split!r} names {stem!r}, but {images!r} has no such photo")
        if not self._mask_path(stem).is_file():
            raise ValueError(f"photo {self._photos[stem].name!r} has no mask {str(self._mask_path(stem))!r}")

    def _mask_path(self, stem: str) -> Path:
        return self.folder / "masks" / f"{stem}.png"

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> Sample:
        """The sample at `index`; `ValueError`, naming the file, when its mask does not fit."""
        stem = self.stems[index]
        photo = self._photos[stem]
        with Image.open(photo) as opened:
            image = opened.convert("RGB")
        with Image.open(self._mask_path(stem)) as opened:
            ids = np.array(opened)
        if ids.ndim != 2 or ids.dtype.kind not in "ui":
            raise ValueError(f"mask of {photo.name!r}: expected one channel of class ids, got {ids.dtype} {ids.shape}")
        if ids.shape != image.size[::-1]:
            raise ValueError(
                f"mask of {photo.name!r} is {ids.shape[1]}x{ids.shape[0]}, its photo {image.width}x{image.height}"
            )
        present = np.flatnonzero(np.bincount(ids.ravel(), minlength=1))
        unknown = set(present.tolist()) - self._known - {self.ignore_index}
        if unknown:
            raise ValueError(f"mask of {photo.name!r} has class ids {sorted(unknown)} that classes.txt does not list")
        return Sample(image, self._lookup[ids], photo.name)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES
