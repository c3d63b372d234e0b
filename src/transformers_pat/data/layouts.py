"""
Folders of photos and masks as people and labelling tools write them, all read to a [`Layout`].

- plain: `images/NAME.jpg`, `masks/NAME.png` (or `NAME_mask.png`), `classes.txt` or `labelmap.txt`, and
  `splits/SPLIT.txt` if the splits are not to be made automatically
- Pascal VOC, CVAT's "Segmentation mask": `voc.py`
- COCO, which CVAT, Label Studio, Roboflow and others write: `coco.py`
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from .base import IGNORE_INDEX, BadSampleError, read_classes, read_ids

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")
COLOR_TABLE = "labelmap.txt"
# The rest of the photos is for training.
VALIDATION_SHARE = 0.2
# VOC's border between objects.
VOID = (224, 224, 192)


@dataclass
class Layout:
    """
    What a folder holds.

    Args:
        form: Name of the form, for reports.
        classes: Class id -> name.
        photos: Name of a sample -> its photo.
        masks: Name of a sample -> function that reads its class ids, (height, width) integers.
        splits: Split -> names of samples, as the folder says; empty if it does not.
        mask_place: Where the mask of a sample "{name}" is looked for.
        strays: Masks without a photo.
    """

    form: str
    classes: dict[int, str]
    photos: dict[str, Path]
    masks: dict[str, Callable[[], np.ndarray]]
    splits: dict[str, list[str]] = field(default_factory=dict)
    mask_place: str = "{name}"
    strays: list[str] = field(default_factory=list)

    def all_splits(self) -> dict[str, list[str]]:
        """The folder's splits, or `train` and `val` made automatically."""
        return self.splits or automatic_splits([name for name in self.photos if name in self.masks])

    def names(self, split: str, folder: Path) -> list[str]:
        """Names of the samples of a split; `ValueError` if `folder` has none, or not this split."""
        splits = self.all_splits()
        if split not in splits:
            found = ", ".join(sorted(splits)) or "none"
            raise ValueError(f"data folder {str(folder)!r} has no split {split!r} (found: {found})")
        if not any(splits.values()):
            raise ValueError(f"no photo with a mask in {str(folder)!r}")
        if not splits[split]:
            raise ValueError(f"split {split!r} of {str(folder)!r} is empty")
        return splits[split]


def automatic_splits(names: list[str]) -> dict[str, list[str]]:
    """A fifth of the samples, at least one, for validation; which ones depends on the names alone."""
    shuffled = sorted(names, key=lambda name: sha256(name.encode()).digest())
    count = min(len(names) - 1, max(1, round(len(names) * VALIDATION_SHARE))) if names else 0
    held_out = set(shuffled[:count])
    return {"train": [name for name in names if name not in held_out], "val": sorted(held_out)}


def read_plain(folder: Path, ignore_index: int = IGNORE_INDEX) -> Layout:
    """Read the plain form; `ValueError` naming what is missing of it."""
    for part in ("images", "masks"):
        if not (folder / part).is_dir():
            raise ValueError(f"data folder {str(folder)!r} has no {part}/")
    colors: dict[tuple[int, int, int], int] = {}
    if (folder / "classes.txt").is_file():
        classes = read_classes(folder / "classes.txt")
    elif (folder / COLOR_TABLE).is_file():
        classes, colors = read_color_table(folder / COLOR_TABLE)
    else:
        raise ValueError(f"data folder {str(folder)!r} has no classes.txt (lines 'id: name') and no {COLOR_TABLE}")
    return read_pairs(
        "plain folder", folder / "images", folder / "masks", folder / "splits", classes, colors, ignore_index
    )


def read_pairs(
    form: str, images: Path, masks: Path, splits: Path, classes: dict[int, str], colors: dict, ignore_index: int
) -> Layout:
    """The layout of a folder of photos and one of masks with the same names; arguments as [`Layout`] has them."""
    photos = {path.stem: path for path in sorted(images.iterdir()) if is_photo(path)}
    files = find_masks(masks, photos)
    return Layout(
        form=form,
        classes=classes,
        photos=photos,
        masks={name: mask_reader(path, photos[name].name, colors, ignore_index) for name, path in files.items()},
        splits=read_splits(splits, photos),
        mask_place=str(masks / "{name}.png"),
        strays=[path.name for path in masks.glob("*.png") if path not in files.values()],
    )


def find_masks(folder: Path, photos: dict[str, Path]) -> dict[str, Path]:
    """The mask of each photo that has one: `NAME.png`, `NAME_mask.png`, or what `transformers-pat segment` writes."""
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".png"}
    found = {}
    for name in photos:
        stem = next((name + ending for ending in ("", "_mask", "_labels") if name + ending in files), None)
        if stem is not None:
            found[name] = files[stem]
    return found


def read_splits(folder: Path, photos: dict[str, Path]) -> dict[str, list[str]]:
    """Split -> names, from files with one name per line, with or without the photo's suffix."""
    splits = {}
    for path in sorted(folder.glob("*.txt")):
        lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").split("\n"))
        names = [line for line in lines if line]
        splits[path.stem] = [
            Path(name).stem if name not in photos and is_photo(Path(name)) else name for name in names
        ]
    return splits


def read_color_table(path: Path) -> tuple[dict[int, str], dict[tuple[int, int, int], int]]:
    """
    Read a `labelmap.txt` as CVAT writes it: a line "name:red,green,blue" per class, whatever follows.

    Returns:
        Class id -> name and colour -> class id; ids count the lines from 0.

    Raises:
        ValueError: If a line has another form, or a colour or name is given twice.
    """
    classes: dict[int, str] = {}
    colors: dict[tuple[int, int, int], int] = {}
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, *rest = line.split(":")
        values = rest[0].split(",") if rest else []
        if not name.strip() or len(values) != 3 or not all(v.strip().isdigit() and int(v) < 256 for v in values):
            raise ValueError(f"{path}: expected lines 'name:red,green,blue', got {line!r}")
        color = (int(values[0]), int(values[1]), int(values[2]))
        if color in colors or name.strip() in classes.values():
            raise ValueError(f"{path}: the colour or the name of {line!r} is given twice")
        colors[color] = len(classes)
        classes[len(classes)] = name.strip()
    if not classes:
        raise ValueError(f"{path}: no classes in this file")
    return classes, colors


def mask_reader(
    path: Path, photo: str, colors: dict[tuple[int, int, int], int], ignore_index: int
) -> Callable[[], np.ndarray]:
    """What reads one mask file: ids as they are in the file, or by the colours of a table if there is one."""
    if not colors:
        return partial(read_ids, path, photo)
    return partial(read_colored_ids, path, photo, colors, ignore_index)


def read_colored_ids(path: Path, photo: str, colors: dict[tuple[int, int, int], int], ignore_index: int) -> np.ndarray:
    """
    Class ids of a mask painted in a table's colours.

    Returns:
        (height, width) int64; `ignore_index` where VOC's border colour is and stands for no class.

    Raises:
        BadSampleError: If the file can't be read or has a colour that is not in the table.
    """
    try:
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB")).astype(np.int64)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadSampleError(f"mask of {photo!r} can't be read: {error}") from None
    codes = pixels @ (65536, 256, 1)
    ids = np.full(codes.shape, -1)
    for (red, green, blue), number in ({VOID: ignore_index} | colors).items():
        ids[codes == red * 65536 + green * 256 + blue] = number
    if (unknown := codes[ids < 0]).size:
        code = int(unknown[0])
        raise BadSampleError(
            f"mask of {photo!r} has a colour that {COLOR_TABLE} does not have: "
            f"{code >> 16},{code >> 8 & 255},{code & 255}"
        )
    return ids


def is_photo(path: Path) -> bool:
    """Whether a file is a photo by its suffix."""
    return path.suffix.lower() in PHOTO_SUFFIXES
