"""Segmentation data: what a sample is, and a reader for data sets kept as plain folders.

The form, one folder per data set::

    images/NAME.jpg (or .jpeg, .png)   the photos
    masks/NAME.png                     one class id per pixel, 8 or 16 bits, 255 = not labelled
    classes.txt                        lines "id: name"
    splits/SPLIT.txt                   one NAME per line
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

IGNORE_INDEX = 255
BACKGROUND = "background"
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")


class BadSampleError(ValueError):
    """A photo or mask that can't be used; the message names the file. Training skips and counts these."""


class Sample(NamedTuple):
    """One photo with its labels.

    `image`: RGB `PIL.Image` of size (width, height). `labels`: int64 array of shape (height, width), an index into the
    data set's `names` or its `ignore_index` where nothing is known; None if the data set has no masks.
    `file_name`: the photo's file name.
    """

    image: Image.Image
    labels: np.ndarray | None
    file_name: str


class SegmentationDataset:
    """
    What training and evaluation need of a data set: `len()`, indexing, and these attributes.

    `names`: the classes that `labels` index. `ignore_index`: the label of what counts nowhere. `prompts`: the words to
    ask a model with, and `prompt_classes`: the class that each of them stands for; both follow `names` unless a
    benchmark says otherwise (PAS-20b asks with 59 words and scores 21 classes).
    """

    names: list[str]
    ignore_index: int = IGNORE_INDEX

    @property
    def prompts(self) -> list[str]:
        return self.names

    @property
    def prompt_classes(self) -> list[int]:
        return list(range(len(self.names)))

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Sample:
        """The sample at `index`; [`BadSampleError`], naming the file, if it can't be read or does not fit."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


class LabelMapping:
    """
    Class ids of mask files to indices into `names`.

    Args:
        index_of: id -> index; an id that maps to `ignore_index` is known and not scored.
        ignore_index: The label of what is not known; as an id it stands for itself.
    """

    def __init__(self, index_of: Mapping[int, int], ignore_index: int):
        self.ignore_index = ignore_index
        self._table = np.full(2**16, -1, dtype=np.int64)
        self._table[ignore_index] = ignore_index
        self._table[list(index_of)] = list(index_of.values())

    def __call__(self, ids: np.ndarray, image: Image.Image, file_name: str) -> np.ndarray:
        """
        Args:
            ids: (height, width) class ids, 8 or 16 bits.
            image: The photo that they belong to.
            file_name: For messages.

        Returns:
            (height, width) int64 labels.

        Raises:
            BadSampleError: If the ids are no map, of another size than the photo, or not all known.
        """
        if ids.ndim != 2 or ids.dtype.kind not in "uib":
            raise BadSampleError(
                f"mask of {file_name!r}: expected one channel of class ids, got {ids.dtype} {ids.shape}"
            )
        if ids.shape != image.size[::-1]:
            raise BadSampleError(
                f"mask of {file_name!r} is {ids.shape[1]}x{ids.shape[0]}, its photo {image.width}x{image.height}"
            )
        inside = np.clip(ids, 0, len(self._table) - 1)
        labels = self._table[inside]
        unknown = ids[(labels < 0) | (inside != ids)]
        if unknown.size:
            found = ", ".join(map(str, np.unique(unknown)[:10]))
            raise BadSampleError(
                f"mask of {file_name!r} has class ids that the class list does not have: {found}; "
                f"add them to it, or mark these pixels {self.ignore_index} (not labelled)"
            )
        return labels


def read_photo(file: str | Path | IO[bytes], file_name: str) -> Image.Image:
    """An RGB photo; [`BadSampleError`] if the file is none."""
    try:
        with Image.open(file) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadSampleError(f"photo {file_name!r} can't be read: {error}") from None


def read_ids(file: str | Path | IO[bytes], file_name: str) -> np.ndarray:
    """The pixels of a mask as they are in the file; [`BadSampleError`] if the file is no picture."""
    try:
        with Image.open(file) as opened:
            return np.array(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadSampleError(f"mask of {file_name!r} can't be read: {error}") from None


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


def index_classes(
    classes: Mapping[int, str], ignore_index: int, ignored_classes: Collection[str] = (BACKGROUND,)
) -> tuple[list[str], LabelMapping]:
    """
    Names in id order, and the mapping of ids to them; ids are renumbered where the list has gaps.

    Classes called one of `ignored_classes` are left out of the names and their pixels are ignored.

    Raises:
        ValueError: If `ignore_index` is also a class, or an ignored class other than "background" is none.
    """
    ignored = {name.lower() for name in ignored_classes}
    if unknown := sorted(ignored - {name.lower() for name in classes.values()} - {BACKGROUND}):
        raise ValueError(f"ignored class {unknown[0]!r} is not on the class list: {', '.join(classes.values())}")
    if ignore_index in classes or ignore_index < len(classes):
        raise ValueError(
            f"{ignore_index} stands for 'not labelled', but the class list goes to {max(classes)}: set ignore_index "
            "to 65535 and use that in the masks"
        )
    kept = [i for i in sorted(classes) if classes[i].lower() not in ignored]
    index_of = dict.fromkeys(classes, ignore_index) | {number: index for index, number in enumerate(kept)}
    return [classes[number] for number in kept], LabelMapping(index_of, ignore_index)


class FolderDataset(SegmentationDataset):
    """A split of a plain-folder segmentation data set: `len()`, indexing and iteration over [`Sample`]s.

    Args:
        folder: the data set's folder, with `images/`, `masks/`, `classes.txt` and `splits/`.
        split: which `splits/SPLIT.txt` to read.
        ignore_index: the id of what is not labelled, in the files and in `labels`; 65535 where 255 is a class.
        ignored_classes: classes to leave out of `names`; their pixels are ignored.
        strict: whether a photo or mask that the split names and nobody has is an error; otherwise it is left out and
            named in the attribute `missing`.

    `names` holds the class names in id order and `labels` of every sample index into it (ids are renumbered when the
    class list has gaps or loses ignored classes).

    Raises:
        ValueError: a missing folder, class list or split; a split that names a photo without file or mask (on
            creation).
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        ignored_classes: Collection[str] = (BACKGROUND,),
        ignore_index: int = IGNORE_INDEX,
        strict: bool = True,
    ):
        self.folder, self.split, self.ignore_index = Path(folder), split, ignore_index
        if not self.folder.is_dir():
            raise ValueError(f"no data folder {str(self.folder)!r}")
        for part in ("images", "masks", "splits"):
            if not (self.folder / part).is_dir():
                raise ValueError(f"data folder {str(self.folder)!r} has no {part}/")
        if not (self.folder / "classes.txt").is_file():
            raise ValueError(f"data folder {str(self.folder)!r} has no classes.txt")
        classes = read_classes(self.folder / "classes.txt")
        self.names, self._to_labels = index_classes(classes, ignore_index, ignored_classes)
        self._photos = {path.stem: path for path in (self.folder / "images").iterdir() if is_photo(path)}
        problems = {stem: self._find_problem(stem) for stem in self._read_split()}
        self.stems, self.missing = leave_out(problems, strict)
        if not self.stems:
            raise ValueError(f"split {split!r} of {str(self.folder)!r} has no photo with a mask")

    def _read_split(self) -> list[str]:
        path = self.folder / "splits" / f"{self.split}.txt"
        if not path.is_file():
            found = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
            raise ValueError(f"data folder {str(self.folder)!r} has no split {self.split!r} (found: {found})")
        stems = [stem.strip() for stem in path.read_text(encoding="utf-8").split("\n") if stem.strip()]
        if not stems:
            raise ValueError(f"split {self.split!r} of {str(self.folder)!r} is empty")
        return stems

    def _find_problem(self, stem: str) -> str | None:
        if stem not in self._photos:
            images = str(self.folder / "images")
            return f"split {self.split!r} names {stem!r}, but {images!r} has no such photo"
        if not self._mask_path(stem).is_file():
            return f"photo {self._photos[stem].name!r} has no mask {str(self._mask_path(stem))!r}"
        return None

    def _mask_path(self, stem: str) -> Path:
        return self.folder / "masks" / f"{stem}.png"

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> Sample:
        stem = self.stems[index]
        photo = self._photos[stem]
        image = read_photo(photo, photo.name)
        ids = read_ids(self._mask_path(stem), photo.name)
        return Sample(image, self._to_labels(ids, image, photo.name), photo.name)


class PhotoFolder(SegmentationDataset):
    """
    Every photo in a folder and the folders below it, without masks, for training the tokenizer.

    Raises:
        ValueError: if there is no such folder or no photo in it.
    """

    def __init__(self, folder: str | Path):
        if not Path(folder).is_dir():
            raise ValueError(f"no folder {str(folder)!r}")
        self.names = []
        self.photos = sorted(path for path in Path(folder).rglob("*") if is_photo(path))
        if not self.photos:
            raise ValueError(f"no photo ({', '.join(PHOTO_SUFFIXES)}) in {str(folder)!r}")

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> Sample:
        photo = self.photos[index]
        return Sample(read_photo(photo, photo.name), None, photo.name)


def is_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES


def leave_out(problems: Mapping[str, str | None], strict: bool) -> tuple[list[str], list[str]]:
    """Stems without a problem, and the problems of the others; with `strict` the first of these is a `ValueError`."""
    missing = [problem for problem in problems.values() if problem]
    if missing and strict:
        raise ValueError(missing[0])
    return [stem for stem, problem in problems.items() if not problem], missing
