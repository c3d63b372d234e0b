"""
COCO's JSON of polygons and RLE, which CVAT, Label Studio, Roboflow, Supervisely and others write.

The JSON lies in the folder, in `annotations/`, or in a folder per split; photos are found by their file name anywhere
in the folder. Pixels without an annotation are class 0, "background"; where annotations overlap, the smaller
one counts.
"""

import contextlib
import io
import json
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from ..image_io_pat import MOST_PIXELS
from ..prompts_pat import BACKGROUND
from .base import BadSampleError
from .layouts import Layout, is_photo

KEYS = {"images", "annotations", "categories"}
SPLIT_NAMES = {"valid": "val", "validation": "val"}


def find_coco(folder: Path) -> list[Path]:
    """The files that have COCO's keys, in the folder and the folders one level below it."""
    files = [path for path in sorted([*folder.glob("*.json"), *folder.glob("*/*.json")]) if path.is_file()]
    return [path for path in files if has_keys(path.read_text(encoding="utf-8", errors="replace"))]


def has_keys(text: str) -> bool:
    """Whether COCO's keys are in a JSON text, without parsing what may be large and something else."""
    return all(f'"{key}"' in text for key in KEYS)


def read_coco(folder: Path, files: list[Path]) -> Layout:
    """Read the files that [`find_coco`] found; `ValueError` if pycocotools is missing or a file is not usable."""
    photos: dict[str, list[Path]] = {}
    for path in filter(is_photo, sorted(folder.rglob("*"))):
        photos.setdefault(path.name, []).append(path)
    layout = Layout(form="COCO", classes={}, photos={}, masks={}, mask_place="annotation of {name}")
    numbers: dict[str, int] = {}
    for file in files:
        index = load_index(file)
        try:
            layout.splits[split_name(file)] = add_file(layout, file, index, photos, numbers, folder)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"{file} is no COCO file of masks: {error!r}") from None
    layout.classes = {0: BACKGROUND} | {number: name for name, number in numbers.items()}
    if len(files) == 1:
        layout.splits = {}
    return layout


def add_file(
    layout: Layout, file: Path, index: Any, photos: dict[str, list[Path]], numbers: dict[str, int], folder: Path
) -> list[str]:
    """Add the samples of one file to a layout, and its categories to `numbers`; returns the samples' names."""
    categories = sorted(index.dataset["categories"], key=lambda category: category["id"])
    class_of = {category["id"]: number_class(category["name"], numbers) for category in categories}
    names = []
    for image in index.dataset["images"]:
        path = find_photo(image["file_name"], file, photos)
        if path is None:
            layout.strays.append(image["file_name"])
            continue
        name = path.relative_to(folder).as_posix()
        names.append(name)
        layout.photos[name] = path
        if annotations := index.imgToAnns.get(image["id"]):
            layout.masks[name] = partial(read_annotations, index, image, annotations, class_of)
    return names


def find_photo(name: str, file: Path, photos: dict[str, list[Path]]) -> Path | None:
    """
    The photo that a file means by a name, None if there is none.

    Names may have folders of the tool's own machine, with either slash, so only their last part must fit. Of several
    photos with that name it is the one that agrees most with the name's folders, the file's folder and its split.
    """
    parts = (*file.parent.parts, *name.replace("\\", "/").split("/"))

    def agreement(path: Path) -> tuple[int, bool]:
        pairs = zip(reversed(path.parts), reversed(parts), strict=False)
        return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs))), split_name(file) in path.parts

    candidates = sorted(photos.get(parts[-1], []), key=agreement, reverse=True)
    if len(candidates) > 1 and agreement(candidates[0]) == agreement(candidates[1]):
        raise ValueError(f"{name} could be {candidates[0]} or {candidates[1]}")
    return candidates[0] if candidates else None


def load_index(file: Path) -> Any:
    """Index one file with pycocotools; `ValueError` if it is not COCO's JSON of masks."""
    try:
        from pycocotools.coco import COCO
    except ImportError:
        raise ValueError('COCO annotations need pycocotools: pip install "transformers_pat[formats]"') from None
    index = COCO()
    try:
        index.dataset = json.loads(file.read_text(encoding="utf-8"))
        if any("segments_info" in annotation for annotation in index.dataset["annotations"]):
            raise ValueError("it is panoptic; export COCO instances instead")
        with contextlib.redirect_stdout(io.StringIO()):  # it reports progress with print
            index.createIndex()
        return index
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no COCO file of masks: {error!r}") from None


def number_class(name: str, numbers: dict[str, int]) -> int:
    """The class id of a category: 0 for one called background, else the next free one."""
    return 0 if name.lower() == BACKGROUND else numbers.setdefault(name, len(numbers) + 1)


def split_name(file: Path) -> str:
    """The split that a file is of: `instances_train.json` is train, `valid/_annotations.coco.json` val."""
    stem = file.stem.removesuffix(".coco").strip("_")
    name = file.parent.name if stem == "annotations" else stem.removeprefix("instances_")
    return SPLIT_NAMES.get(name, name)


def read_annotations(index: Any, image: dict, annotations: list[dict], class_of: dict[int, int]) -> np.ndarray:
    """Class ids of one photo, (height, width) int64; [`BadSampleError`] if a polygon or RLE is damaged."""
    try:
        if image["height"] * image["width"] > MOST_PIXELS:
            raise ValueError(f"{image['width']} x {image['height']} pixels")
        ids = np.zeros((image["height"], image["width"]), dtype=np.int64)
        for annotation in sorted(annotations, key=lambda annotation: -annotation["area"]):
            ids[index.annToMask(annotation) > 0] = class_of[annotation["category_id"]]
    except Exception as error:  # pycocotools raises nearly anything for what it can't read
        raise BadSampleError(f"annotation of {image['file_name']!r} can't be read: {error}") from None
    return ids
