"""Read a benchmark from its official download as it unpacks; `catalogue.py` declares the benchmarks."""

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..prompts_pat import BACKGROUND
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
    One file to download.

    Args:
        path: Folder that it unpacks to, below the root; may hold "{split}".
        file: Name of the file.
        where: Page to download it from, and where to unpack it if that is not the root.
    """

    path: str
    file: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """
    One benchmark: where its files are and what its masks mean.

    Paths are below the root and may hold "{split}" and "{name}".

    Args:
        name: Name in configs and commands.
        title: Name in tables.
        classes: File in `class_names/` with the classes and the id of each in the masks (`source_id`).
        splits: Split -> its name in the paths, and its number of photos.
        photo, mask: Files of one sample.
        split_list: File with one name per line; without it, every photo is a sample.
        downloads: Files to download.
        read_mask: Function that reads a mask file: (path, file name for messages) -> (height, width) array of ids.
        unscored: Ids that are valid but not scored.
        background_id: Id of a last class, "background".
        prompts: File in `class_names/` with the prompts, where they are not the class names; those after the named
            classes all stand for the background.
        ignore_index: Label of unlabelled pixels.
        shortest_edge: Photo and mask are downscaled until their short side has at most this many pixels.
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
        """Name of a split in the paths; `ValueError` if there is no such split."""
        if split not in self.splits:
            raise ValueError(f"{self.title} has no split {split!r}, only {', '.join(self.splits)}")
        return self.splits[split][0]


class BenchmarkDataset(SegmentationDataset):
    """
    One split of a benchmark: `len()`, indexing and iteration over [`Sample`]s.

    Args:
        benchmark: Declaration of the benchmark.
        root: Folder that the downloads were unpacked in.
        split: One of `benchmark.splits`.
        strict: Whether a missing photo or mask is an error; otherwise the sample is left out and described in
            the attribute `missing`.

    Raises:
        ValueError: If there is no such split, or (on creation) a file of it is missing.
    """

    def __init__(self, benchmark: Benchmark, root: str | Path, split: str = "val", strict: bool = True):
        self.benchmark, self.root, self.split = benchmark, Path(root), split
        self._folder = benchmark.folder(split)
        self.ignore_index = benchmark.ignore_index
        self.names, self._to_labels = index_ids(benchmark)
        problems = {stem: self._find_problem(stem) for stem in self._list_stems()}
        self.stems, self.missing = leave_out(problems, strict, f"{str(self.root)!r}")

    @property
    def prompts(self) -> list[str]:
        """Labels to give the model."""
        file = self.benchmark.prompts
        return [row["name"] for row in read_class_list(file)] if file else self.names

    @property
    def prompt_classes(self) -> list[int]:
        """Index of the class that each prompt stands for."""
        return [min(index, len(self.names) - 1) for index in range(len(self.prompts))]

    def _path(self, template: str, stem: str = "") -> Path:
        return self.root / template.format(split=self._folder, name=stem)

    def _list_stems(self) -> list[str]:
        """Names of the samples; where photos are in folders of scenes, a name includes the folder."""
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
    """Rows of `class_names/NAME.tsv`, in the order of the class indices."""
    with (CLASS_NAMES / f"{name}.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def index_ids(benchmark: Benchmark) -> tuple[list[str], LabelMapping]:
    """The names of a benchmark's classes, and the mapping of the ids in its masks to them."""
    rows = read_class_list(benchmark.classes)
    names = [row["name"] for row in rows]
    ids = [int(row["source_id"]) for row in rows]
    if benchmark.background_id is not None:
        names.append(BACKGROUND)
        ids.append(benchmark.background_id)
    index_of = dict.fromkeys(benchmark.unscored, benchmark.ignore_index)
    index_of |= {number: index for index, number in enumerate(ids)}
    return names, LabelMapping(index_of, benchmark.ignore_index)


def read_ade20k_full(path: Path, file_name: str) -> np.ndarray:
    """Ids of ADE20K's full release: red and green of a `_seg.png`; blue is the number of the instance."""
    pixels = read_ids(path, file_name)
    if pixels.ndim != 3:
        raise BadSampleError(f"mask of {file_name!r}: expected the three channels of a _seg.png, got {pixels.shape}")
    return pixels[..., 0].astype(np.uint16) // 10 * 256 + pixels[..., 1]


def read_label_map(path: Path, file_name: str) -> np.ndarray:
    """Ids of PASCAL-Context: the matrix `LabelMap` of a MATLAB file; `ValueError` if scipy is not installed."""
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ValueError("PASCAL-Context's masks need scipy: pip install scipy") from None
    try:
        return loadmat(path)["LabelMap"]
    except Exception as error:  # loadmat raises many types for a damaged file
        raise BadSampleError(f"mask of {file_name!r} can't be read: {error}") from None


def shrink(image: Image.Image, labels: np.ndarray, shortest_edge: int) -> tuple[Image.Image, np.ndarray]:
    """Downscale photo and labels to a short side of `shortest_edge`; smaller ones are returned unchanged."""
    short = min(image.size)
    if short <= shortest_edge:
        return image, labels
    width, height = (round(side / short * shortest_edge) for side in image.size)
    rows = np.arange(height) * image.height // height
    columns = np.arange(width) * image.width // width
    # `Image.resize` would apply an antialiasing filter; published scores were measured without it.
    scale = (image.width / width, 0, 0, 0, image.height / height, 0)
    small = image.transform((width, height), Image.Transform.AFFINE, scale, Image.Resampling.BILINEAR)
    return small, labels[np.ix_(rows, columns)]
