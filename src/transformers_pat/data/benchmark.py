"""Reads a benchmark from its official download as it unpacks; `benchmarks.py` declares the benchmarks."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .base import (
    IGNORE_INDEX,
    BadSampleError,
    LabelMapping,
    Sample,
    SegmentationDataset,
    leave_out,
    read_ids,
    read_photo,
)

CLASS_NAMES = Path(__file__).parent / "class_names"


@dataclass(frozen=True)
class Download:
    """
    Args:
        path: What it unpacks to, below the root; may hold "{split}".
        file: What to download.
        where: The page it is had from, and how to unpack it where that is not obvious.
    """

    path: str
    file: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """
    One benchmark: where its files are, and what its masks mean. Paths are below the root and may hold "{split}" and
    "{name}".

    Args:
        name: What configs and commands call it.
        title: What tables call it.
        classes: File in `class_names/` with its classes, and with the id that each has in the masks (`source_id`).
        splits: Split -> its name in the paths, and how many photos it should have.
        photo, mask: Files of one sample.
        split_list: File with one name per line; without it, every photo counts.
        downloads: What has to be there.
        read_mask: Reads the ids of a mask file: (path, file name for messages) -> (height, width) array.
        unscored: Ids that are known and count nowhere.
        background_id: Id of a last class, "background".
        prompts: File in `class_names/` with the words to ask with, where they are not the classes; those after the
            named classes all stand for the background.
        ignore_index: Label of what counts nowhere.
        shortest_edge: Photo and mask are shrunk until their short side has at most this many pixels.
    """

    name: str
    title: str
    classes: str
    splits: dict[str, tuple[str, int]]
    photo: str
    mask: str
    downloads: tuple[Download, ...]
    split_list: str | None = None
    read_mask: Callable[[Path, str], np.ndarray] = read_ids
    unscored: Iterable[int] = ()
    background_id: int | None = None
    prompts: str | None = None
    ignore_index: int = IGNORE_INDEX
    shortest_edge: int | None = None

    def folder(self, split: str) -> str:
        """What the paths call a split; `ValueError` if there is no such split."""
        if split not in self.splits:
            raise ValueError(f"{self.title} has no split {split!r}, only {', '.join(self.splits)}")
        return self.splits[split][0]


class BenchmarkDataset(SegmentationDataset):
    """
    A split of a benchmark: `len()`, indexing and iteration over [`Sample`]s.

    Args:
        benchmark: Its declaration.
        root: Folder that the downloads were unpacked in.
        split: One of `benchmark.splits`.
        strict: Whether a photo or mask that is not there is an error; otherwise it is left out and named in the
            attribute `missing`.

    Raises:
        ValueError: If there is no such split, or a file of it is not there (on creation).
    """

    def __init__(self, benchmark: Benchmark, root: str | Path, split: str = "val", strict: bool = True):
        self.benchmark, self.root, self.split = benchmark, Path(root), split
        self._folder = benchmark.folder(split)
        self.ignore_index = benchmark.ignore_index
        self.names, self._to_labels = index_ids(benchmark)
        problems = {stem: self._find_problem(stem) for stem in self._list_stems()}
        self.stems, self.missing = leave_out(problems, strict)
        if not self.stems:
            raise ValueError(f"{benchmark.title}: no photo with a mask in {str(self.root)!r}")

    @property
    def prompts(self) -> list[str]:
        asked = self.benchmark.prompts
        return [row["name"] for row in read_class_list(asked)] if asked else self.names

    @property
    def prompt_classes(self) -> list[int]:
        return [min(index, len(self.names) - 1) for index in range(len(self.prompts))]

    def _path(self, template: str, stem: str = "") -> Path:
        return self.root / template.format(split=self._folder, name=stem)

    def _list_stems(self) -> list[str]:
        """Names of the samples; in data sets with folders of scenes they hold the folder."""
        before, _, suffix = self.benchmark.photo.partition("{name}")
        listing = self._path(self.benchmark.split_list or before)
        if not listing.exists():
            raise ValueError(f"{self.benchmark.title}: {str(listing)!r} is missing")
        if self.benchmark.split_list:
            return listing.read_text(encoding="utf-8").split()
        photos = (path.relative_to(listing).as_posix() for path in listing.rglob(f"*{suffix}"))
        return sorted(photo.removesuffix(suffix) for photo in photos)

    def _find_problem(self, stem: str) -> str | None:
        for template in (self.benchmark.photo, self.benchmark.mask):
            path = self._path(template, stem)
            if not path.is_file():
                return f"{self.benchmark.title}: {str(path)!r} is missing"
        return None

    def __len__(self) -> int:
        return len(self.stems)

    def __getitem__(self, index: int) -> Sample:
        photo = self._path(self.benchmark.photo, self.stems[index])
        image = read_photo(photo, photo.name)
        ids = self.benchmark.read_mask(self._path(self.benchmark.mask, self.stems[index]), photo.name)
        labels = self._to_labels(ids, image, photo.name)
        if self.benchmark.shortest_edge:
            image, labels = shrink(image, labels, self.benchmark.shortest_edge)
        return Sample(image, labels, photo.name)


def read_class_list(name: str) -> list[dict[str, str]]:
    """The rows of `class_names/NAME.tsv`, in the order of the training index."""
    with (CLASS_NAMES / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def index_ids(benchmark: Benchmark) -> tuple[list[str], LabelMapping]:
    """The names of a benchmark's classes, and the mapping of the ids in its masks to them."""
    rows = read_class_list(benchmark.classes)
    names = [row["name"] for row in rows]
    ids = [int(row["source_id"]) for row in rows]
    if benchmark.background_id is not None:
        names.append("background")
        ids.append(benchmark.background_id)
    index_of = dict.fromkeys(benchmark.unscored, benchmark.ignore_index)
    index_of |= {number: index for index, number in enumerate(ids)}
    return names, LabelMapping(index_of, benchmark.ignore_index)


def read_ade20k_full(path: Path, file_name: str) -> np.ndarray:
    """Ids of ADE20K's full release: a `_seg.png` has them in red and green; blue numbers the instances."""
    pixels = read_ids(path, file_name)
    if pixels.ndim != 3:
        raise BadSampleError(f"mask of {file_name!r}: expected the three channels of a _seg.png, got {pixels.shape}")
    return pixels[..., 0].astype(np.uint16) // 10 * 256 + pixels[..., 1]


def read_label_map(path: Path, file_name: str) -> np.ndarray:
    """Ids of PASCAL-Context: the matrix `LabelMap` of a MATLAB file; `ValueError` without scipy."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ValueError("PASCAL-Context's masks need scipy: pip install scipy") from None
    try:
        return loadmat(path)["LabelMap"]
    except Exception as error:  # loadmat has no error of its own for files that are not MATLAB's
        raise BadSampleError(f"mask of {file_name!r} can't be read: {error}") from None


def shrink(image: Image.Image, labels: np.ndarray, shortest_edge: int) -> tuple[Image.Image, np.ndarray]:
    """Photo and labels with a short side of at most `shortest_edge`; smaller ones as they are."""
    short = min(image.size)
    if short <= shortest_edge:
        return image, labels
    width, height = (round(side / short * shortest_edge) for side in image.size)
    rows = np.arange(height) * image.height // height
    columns = np.arange(width) * image.width // width
    # `resize` would smooth first; published scores were measured on photos that were not smoothed.
    scale = (image.width / width, 0, 0, 0, image.height / height, 0)
    small = image.transform((width, height), Image.Transform.AFFINE, scale, Image.Resampling.BILINEAR)
    return small, labels[np.ix_(rows, columns)]
