"""
Data sets kept as plain folders, with masks or of photos alone.

With masks, one folder per data set::

    images/NAME.jpg (or .jpeg, .png)   photos
    masks/NAME.png                     one class id per pixel, 8 or 16 bits, 255 = not labelled
    classes.txt                        lines "id: name"
    splits/SPLIT.txt                   one NAME per line
"""

from collections.abc import Collection
from pathlib import Path

from ..prompts_pat import BACKGROUND
from .base import (
    IGNORE_INDEX,
    Sample,
    SegmentationDataset,
    index_classes,
    leave_out,
    read_classes,
    read_ids,
    read_photo,
)

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")


class FolderDataset(SegmentationDataset):
    """
    One split of a plain-folder data set: `len()`, indexing and iteration over [`Sample`]s.

    Args:
        folder: Folder with `images/`, `masks/`, `classes.txt` and `splits/`.
        split: Name of the split: reads `splits/SPLIT.txt`.
        ignored_classes: Classes to leave out of `names`; their pixels count as not labelled.
        ignore_index: Id of unlabelled pixels, in the mask files and in `labels`; 65535 where 255 is a class.
        strict: Whether a missing photo or mask is an error; otherwise the sample is left out and described in
            the attribute `missing`.

    `names` are the class names in the order of their ids. Labels index `names`: ids are renumbered where the class
    list has gaps or loses ignored classes.

    Raises:
        ValueError: If the folder, the class list or the split is missing, or (on creation) a photo or mask is.
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
        masks = (self.folder / "masks").iterdir()
        self._masks = {path.stem: path for path in masks if path.suffix.lower() == ".png"}
        problems = {stem: self._find_problem(stem) for stem in self._read_split()}
        self.stems, self.missing = leave_out(problems, strict, f"split {split!r} of {str(self.folder)!r}")

    def _read_split(self) -> list[str]:
        """Names in the split file, one per line, with or without the photo's suffix."""
        path = self.folder / "splits" / f"{self.split}.txt"
        if not path.is_file():
            found = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
            raise ValueError(f"data folder {str(self.folder)!r} has no split {self.split!r} (found: {found})")
        names = [name.strip() for name in path.read_text(encoding="utf-8-sig").split("\n") if name.strip()]
        if not names:
            raise ValueError(f"split {self.split!r} of {str(self.folder)!r} is empty")
        return [Path(name).stem if name not in self._photos and is_photo(Path(name)) else name for name in names]

    def _find_problem(self, stem: str) -> str | None:
        if stem not in self._photos:
            images = str(self.folder / "images")
            return f"split {self.split!r} names {stem!r}, but {images!r} has no such photo"
        if stem not in self._masks:
            return f"photo {self._photos[stem].name!r} has no mask {str(self.folder / 'masks' / f'{stem}.png')!r}"
        return None

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> Sample:
        stem = self.stems[index]
        photo = self._photos[stem]
        image = read_photo(photo, photo.name)
        ids = read_ids(self._masks[stem], photo.name)
        return Sample(image, self._to_labels(ids, image, photo.name), photo.name)


class PhotoFolder(SegmentationDataset):
    """
    Every photo in a folder and the folders below it, without masks, for training the tokenizer.

    Raises:
        ValueError: If the folder is missing or has no photo.
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
    """Whether a file is a photo by its suffix."""
    return path.suffix.lower() in PHOTO_SUFFIXES
