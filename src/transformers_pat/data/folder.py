"""Data sets kept as folders: photos with masks in any form that `layouts.py` reads, or photos alone."""

from collections.abc import Collection
from pathlib import Path

from ..prompts_pat import BACKGROUND
from .base import IGNORE_INDEX, Sample, SegmentationDataset, index_classes, leave_out, read_photo
from .coco import find_coco, read_coco
from .layouts import PHOTO_SUFFIXES, Layout, is_photo, read_plain
from .voc import read_voc


class FolderDataset(SegmentationDataset):
    """
    One split of a folder of photos and masks: `len()`, indexing and iteration over [`Sample`]s.

    Args:
        folder: Plain folder, Pascal VOC or COCO, see [`read_layout`].
        split: Name of the split. A folder without splits has `train` and `val`, a fifth of the photos.
        ignored_classes: Classes to leave out of `names`; their pixels count as not labelled.
        ignore_index: Id of unlabelled pixels, in the mask files and in `labels`; 65535 where 255 is a class.
        strict: Whether a missing photo or mask is an error; otherwise the sample is left out and described in
            the attribute `missing`.
        layout: What [`read_layout`] has read of the folder already.

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
        layout: Layout | None = None,
    ):
        self.folder, self.split, self.ignore_index = Path(folder), split, ignore_index
        self._layout = layout or read_layout(self.folder, ignore_index)
        self.names, self._to_labels = index_classes(self._layout.classes, ignore_index, ignored_classes)
        problems = {name: self._find_problem(name) for name in self._layout.names(split, self.folder)}
        self.stems, self.missing = leave_out(problems, strict, f"split {split!r} of {str(self.folder)!r}")

    def _find_problem(self, name: str) -> str | None:
        if name not in self._layout.photos:
            return f"split {self.split!r} names {name!r}, but {str(self.folder)!r} has no such photo"
        if name not in self._layout.masks:
            return (
                f"photo {self._layout.photos[name].name!r} has no mask {self._layout.mask_place.format(name=name)!r}"
            )
        return None

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> Sample:
        name = self.stems[index]
        photo = self._layout.photos[name]
        image = read_photo(photo, photo.name)
        return Sample(image, self._to_labels(self._layout.masks[name](), image, photo.name), photo.name)


def read_layout(folder: Path, ignore_index: int = IGNORE_INDEX) -> Layout:
    """
    Find out which form a folder has, and read it.

    Raises:
        ValueError: If there is no such folder, or a part of its form is missing.
    """
    if not folder.is_dir():
        raise ValueError(f"no data folder {str(folder)!r}")
    if (folder / "SegmentationClass").is_dir():
        return read_voc(folder, ignore_index)
    if not (folder / "masks").is_dir() and (files := find_coco(folder)):
        return read_coco(folder, files)
    if not (folder / "masks").is_dir() and (advice := advise_export(folder)):
        raise ValueError(f"data folder {str(folder)!r}: {advice}")
    return read_plain(folder, ignore_index)


def advise_export(folder: Path) -> str | None:
    """What to export instead, if a folder holds a labelling tool's own form."""
    if (folder / "annotations.xml").is_file():
        return 'annotations.xml is CVAT\'s own form; export "Segmentation mask 1.1" or "COCO 1.0" there instead'
    for path in sorted(folder.glob("*.json")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if all(f'"{key}"' in text for key in ("annotations", "result", "data")):
            return (
                f'{path.name} is Label Studio\'s own form; export "COCO" (for polygons) or "Brush labels to COCO" '
                "there instead"
            )
    return None


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
