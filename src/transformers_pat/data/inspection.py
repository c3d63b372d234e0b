"""What a folder of photos and masks holds, and what is wrong with it, before a training takes an hour to find out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .base import IGNORE_INDEX, BadSampleError
from .folder import FolderDataset, read_layout


@dataclass
class ClassCount:
    """Pixels of one class in all masks, and the number of photos that have it."""

    name: str
    pixels: int = 0
    photos: int = 0


@dataclass
class FolderReport:
    """
    Result of [`inspect_folder`].

    Args:
        form: Form of the folder, such as "COCO".
        splits: Split -> number of photos with masks.
        automatic: Whether the splits are made automatically.
        classes: In the order of their ids.
        unlabelled: Pixels of no class.
        without_mask: Photos that no mask belongs to.
        without_photo: Masks that no photo belongs to.
        problems: Samples that can't be used, one line each.
    """

    form: str
    splits: dict[str, int]
    automatic: bool
    classes: list[ClassCount]
    unlabelled: int = 0
    without_mask: list[str] = field(default_factory=list)
    without_photo: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def inspect_folder(
    folder: str | Path, ignore_index: int = IGNORE_INDEX, track: Callable[[Iterable], Iterable] = iter
) -> FolderReport:
    """
    Open every photo and mask of a folder.

    Args:
        folder: Plain folder, Pascal VOC or COCO, see [`read_layout`].
        ignore_index: Id of unlabelled pixels.
        track: Wraps the iteration over samples, for a progress bar.

    Raises:
        ValueError: If the folder has no known form or no photo with a mask.
    """
    layout = read_layout(Path(folder), ignore_index)
    datasets = {split: FolderDataset(folder, split, (), ignore_index, False, layout) for split in layout.all_splits()}
    report = FolderReport(
        form=layout.form,
        splits={split: len(dataset) for split, dataset in datasets.items()},
        automatic=not layout.splits,
        classes=[ClassCount(name) for name in next(iter(datasets.values())).names],
        without_mask=[path.name for name, path in layout.photos.items() if name not in layout.masks],
        without_photo=layout.strays,
        problems=[problem for dataset in datasets.values() for problem in dataset.missing],
    )
    samples = [(dataset, index) for dataset in datasets.values() for index in range(len(dataset))]
    for split_dataset, index in track(samples):
        try:
            labels = np.asarray(split_dataset[index].labels)
        except BadSampleError as error:
            report.problems.append(str(error))
            continue
        ids, counts = np.unique(labels, return_counts=True)
        for label, count in zip(ids.tolist(), counts.tolist(), strict=True):
            if label == ignore_index:
                report.unlabelled += count
            else:
                report.classes[label].pixels += count
                report.classes[label].photos += 1
    return report
