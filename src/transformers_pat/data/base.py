"""What a sample and a data set are, and class lists: ids in mask files to names and indices."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

from ..image_io_pat import load_photo, to_rgb
from ..prompts_pat import BACKGROUND

IGNORE_INDEX = 255
LARGEST_ID = 2**16 - 1


class BadSampleError(ValueError):
    """A photo or mask that can't be used; the message names the file. Training skips and counts these."""


class Sample(NamedTuple):
    """
    One photo with its labels.

    Args:
        image: RGB photo of size (width, height).
        labels: (height, width) int64 indices into the data set's `names`, or its `ignore_index` where the pixel is not
            labelled; None if the data set has no masks.
        file_name: File name of the photo.
    """

    image: Image.Image
    labels: np.ndarray | None
    file_name: str


class SegmentationDataset:
    """
    What training and evaluation need of a data set: `len()`, indexing and these attributes.

    Attributes:
        names: Class names; `Sample.labels` are indices into them. Empty if there are no masks.
        ignore_index: The label of unlabelled pixels. It is the only such code between a mask file and the model.

    `prompts` and `prompt_classes` follow `names` unless a benchmark says otherwise: PAS-20b has 59 prompts for 21
    classes.
    """

    names: list[str]
    ignore_index: int = IGNORE_INDEX

    @property
    def prompts(self) -> list[str]:
        """Labels to give the model."""
        return self.names

    @property
    def prompt_classes(self) -> list[int]:
        """Index of the class that each prompt stands for."""
        return list(range(len(self.names)))

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Sample:
        """Read the sample at `index`; [`BadSampleError`], naming the file, if it is not usable."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


class LabelMapping:
    """
    Map from class ids in mask files to indices of classes.

    Args:
        index_of: Class id -> index, or -> `ignore_index` for ids that are valid but not scored.
        ignore_index: Label of unlabelled pixels; the same number marks them in the mask files.
    """

    def __init__(self, index_of: Mapping[int, int], ignore_index: int):
        self.ignore_index = ignore_index
        self._table = np.full(LARGEST_ID + 1, -1, dtype=np.int64)
        self._table[ignore_index] = ignore_index
        self._table[list(index_of)] = list(index_of.values())

    def __call__(self, ids: np.ndarray, image: Image.Image, file_name: str) -> np.ndarray:
        """
        Map one mask.

        Args:
            ids: (height, width) class ids, 8 or 16 bits.
            image: The photo that the mask belongs to.
            file_name: File name of the photo, for error messages.

        Returns:
            (height, width) int64 labels.

        Raises:
            BadSampleError: If the mask is not (height, width) integers of the photo's size, or has an unknown id.
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
    """An upright RGB photo, as inference sees it; [`BadSampleError`] if the file is none."""
    try:
        return to_rgb(load_photo(file))
    except ValueError as error:
        raise BadSampleError(f"photo {file_name!r} can't be read: {error}") from None


def read_ids(file: str | Path | IO[bytes], file_name: str) -> np.ndarray:
    """The pixels of a mask as they are in the file; [`BadSampleError`] if the file is no picture."""
    try:
        with Image.open(file) as opened:
            return np.array(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadSampleError(f"mask of {file_name!r} can't be read: {error}") from None


def read_classes(path: str | Path) -> dict[int, str]:
    """Read a `classes.txt` (lines "id: name") into `{id: name}`; `ValueError` on a line of another form."""
    classes: dict[int, str] = {}
    for line in Path(path).read_text(encoding="utf-8-sig").splitlines():
        if not line.strip():
            continue
        number, colon, name = line.partition(":")
        if not (colon and number.strip().isdecimal() and name.strip()):
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
    Names in the order of their ids, and the mapping of ids to indices into them.

    Pixels of the classes called one of `ignored_classes` become `ignore_index`.

    Raises:
        ValueError: If `ignore_index` is also a class id, or an ignored class other than "background" does not exist.
    """
    ignored = {name.lower() for name in ignored_classes}
    if unknown := sorted(ignored - {name.lower() for name in classes.values()} - {BACKGROUND}):
        raise ValueError(f"ignored class {unknown[0]!r} is not on the class list: {', '.join(classes.values())}")
    if max(classes, default=0) > LARGEST_ID:
        raise ValueError(f"class id {max(classes)} is too large: masks hold ids up to {LARGEST_ID}")
    if ignore_index in classes or ignore_index < len(classes):
        raise ValueError(
            f"{ignore_index} stands for 'not labelled', but the class list goes to {max(classes)}: set ignore_index "
            "to 65535 and use that in the masks"
        )
    kept = [i for i in sorted(classes) if classes[i].lower() not in ignored]
    index_of = dict.fromkeys(classes, ignore_index) | {number: index for index, number in enumerate(kept)}
    return [classes[number] for number in kept], LabelMapping(index_of, ignore_index)


def leave_out(problems: Mapping[str, str | None], strict: bool, place: str) -> tuple[list[str], list[str]]:
    """
    Names of complete samples, and what is missing of the others, from name -> what is missing, or None.

    Raises:
        ValueError: If no sample of `place` is complete, or with `strict` one is not.
    """
    missing = [problem for problem in problems.values() if problem]
    complete = [name for name, problem in problems.items() if not problem]
    if missing and strict:
        raise ValueError(missing[0])
    if not complete:
        raise ValueError(f"no photo with a mask in {place}" + (f": {missing[0]}" if missing else ""))
    return complete, missing
