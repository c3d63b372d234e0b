"""
Pascal VOC's layout, which CVAT also writes ("Segmentation mask 1.1").

    JPEGImages/NAME.jpg
    SegmentationClass/NAME.png     ids of a palette, or colours of labelmap.txt
    ImageSets/Segmentation/*.txt   optional: one NAME per line
    labelmap.txt                   optional: lines "name:red,green,blue"; without it, VOC's own classes
"""

from pathlib import Path

from ..prompts_pat import BACKGROUND
from .base import IGNORE_INDEX
from .benchmark import read_class_list
from .layouts import COLOR_TABLE, Layout, find_masks, is_photo, mask_reader, read_color_table, read_splits


def read_voc(folder: Path, ignore_index: int = IGNORE_INDEX) -> Layout:
    """Read the layout; `ValueError` if a part is missing or `labelmap.txt` is not usable."""
    if not (folder / "JPEGImages").is_dir():
        raise ValueError(f"data folder {str(folder)!r} has SegmentationClass/ but no JPEGImages/ with the photos")
    if (folder / COLOR_TABLE).is_file():
        classes, colors = read_color_table(folder / COLOR_TABLE)
    else:
        named = {int(row["source_id"]): row["name"] for row in read_class_list("pascal_voc_20")}
        classes, colors = {0: BACKGROUND, **named}, {}
    photos = {path.stem: path for path in sorted((folder / "JPEGImages").iterdir()) if is_photo(path)}
    files = find_masks(folder / "SegmentationClass", photos)
    splits = read_splits(folder / "ImageSets" / "Segmentation", photos)
    return Layout(
        form="Pascal VOC",
        classes=classes,
        photos=photos,
        masks={name: mask_reader(path, photos[name].name, colors, ignore_index) for name, path in files.items()},
        splits=splits if len(splits) > 1 else {},  # a single list, such as CVAT's default.txt, is no split
        mask_place=str(folder / "SegmentationClass" / "{name}.png"),
        strays=[path.name for path in (folder / "SegmentationClass").glob("*.png") if path not in files.values()],
    )
