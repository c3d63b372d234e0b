"""Small things that all parts of the evidence share: the score of one evaluation, altered photos."""

from transformers_pat.data import SegmentationDataset
from transformers_pat.evaluation import Evaluation


def mean_iou(evaluation: Evaluation) -> float:
    return evaluation.metric.compute()["mean_iou"]


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
