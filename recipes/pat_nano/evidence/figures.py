"""Small things that all parts of the evidence share: sets, tables, figures of one evaluation."""

from collections.abc import Iterable
from pathlib import Path

from transformers_pat.data.base import FolderDataset, SegmentationDataset
from transformers_pat.evaluation.evaluator import Evaluation

MEASURED = {"camvid": "val", "msrc_v2": "test", "voc_animals": "val"}


def measured_sets(data: Path) -> dict[str, FolderDataset]:
    """The splits that no training sees."""
    return {name: FolderDataset(data / name, split) for name, split in MEASURED.items()}


def mean_iou(evaluation: Evaluation) -> float:
    return evaluation.metric.compute()["mean_iou"]


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    lines = [list(header), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


class Altered(SegmentationDataset):
    """A data set with every photo changed by a function; the masks stay."""

    def __init__(self, dataset: SegmentationDataset, change):
        self.dataset, self.change = dataset, change
        self.names, self.ignore_index = dataset.names, dataset.ignore_index

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        sample = self.dataset[index]
        return sample._replace(image=self.change(sample.image))
