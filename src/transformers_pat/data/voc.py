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
from .layouts import COLOR_TABLE, Layout, read_color_table, read_pairs


def read_voc(folder: Path, ignore_index: int = IGNORE_INDEX) -> Layout:
    """Read the layout; `ValueError` if a part is missing or `labelmap.txt` is not usable."""
    if not (folder / "JPEGImages").is_dir():
        raise ValueError(f"data folder {str(folder)!r} has SegmentationClass/ but no JPEGImages/ with the photos")
    if (folder / COLOR_TABLE).is_file():
        classes, colors = read_color_table(folder / COLOR_TABLE)
    else:
        named = {int(row["source_id"]): row["name"] for row in read_class_list("pascal_voc_20")}
        classes, colors = {0: BACKGROUND, **named}, {}
    parts = (folder / "JPEGImages", folder / "SegmentationClass", folder / "ImageSets" / "Segmentation")
    layout = read_pairs("Pascal VOC", *parts, classes, colors, ignore_index)
    if len(layout.splits) == 1:  # a single list, such as CVAT's default.txt, is no split
        layout.splits = {}
    return layout
