"""Which names each training photo goes with: the only step before PAT's training that opens a mask, and it keeps no
pixel of it.

A photo of a data set with masks gets the names of the classes that cover at least `LEAST_SHARE` of it, a photo of
ImageNet the name of its category. Where in the photo a class is, is not kept.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from vocabulary import held_out_words

from transformers_pat.data.base import BACKGROUND, read_classes

LEAST_SHARE = 0.005
HELD_OUT_EVERY = 5  # of each ImageNet category with several photos, every fifth measures zero-shot classification


def mask_names(folder: Path) -> dict[str, list[str]]:
    """{"SET/images/NAME.jpg": class names} of the photos of one data set's train split."""
    classes = {i: name for i, name in read_classes(folder / "classes.txt").items() if name != BACKGROUND}
    photos = {path.stem: path for path in (folder / "images").iterdir()}
    names = {}
    for stem in (folder / "splits/train.txt").read_text(encoding="utf-8").split("\n"):
        if stem.strip():
            mask = np.asarray(Image.open(folder / "masks" / f"{stem}.png"))
            share = np.bincount(mask.ravel(), minlength=256) / mask.size
            found = [name for i, name in classes.items() if share[i] >= LEAST_SHARE]
            names[f"{folder.name}/images/{photos[stem].name}"] = found
    return names


def imagenet_photos(folder: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """{"SET/images/NAME.jpg": [category]} for training, and the same held out."""
    by_name: dict[str, list[str]] = {}
    photos = {path.stem: path.name for path in (folder / "images").iterdir()}
    for stem, name in sorted(json.loads((folder / "labels.json").read_text(encoding="utf-8")).items()):
        by_name.setdefault(name.lower(), []).append(f"{folder.name}/images/{photos[stem]}")
    skipped = held_out_words()
    train, held_out = {}, {}
    for name, files in by_name.items():
        for index, file in enumerate(files):
            is_held_out = index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
            (held_out if is_held_out else train)[file] = [name] if name not in skipped else []
    return train, {file: names for file, names in held_out.items() if names}


def write_names(data: Path, path: Path) -> None:
    """Write `path`: {"train": {photo: names}, "held_out": {photo: names}, "vocabularies": {set: its names}}."""
    train: dict[str, list[str]] = {}
    held_out: dict[str, list[str]] = {}
    vocabularies = {}
    for folder in sorted(data.iterdir()):
        if (folder / "masks").is_dir():
            train |= mask_names(folder)
            listed = read_classes(folder / "classes.txt").values()
            vocabularies[folder.name] = [name for name in listed if name != BACKGROUND]
        elif (folder / "labels.json").is_file():
            of_train, of_held_out = imagenet_photos(folder)
            train |= of_train
            held_out |= of_held_out
            vocabularies[folder.name] = sorted({name for names in of_train.values() for name in names})
    path.write_text(json.dumps({"train": train, "held_out": held_out, "vocabularies": vocabularies}, indent=1))
