"""Fine-tune a PAT checkpoint on one data set with `transformers.Trainer`; train.py does all the rest.

python examples/train_with_trainer.py --data ../data/camvid:train --validation ../data/camvid:val \
    --output_dir runs/trainer --max_steps 200 --learning_rate 1e-3
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import HfArgumentParser, Trainer, TrainingArguments

from transformers_pat import PAT_NANO, PatForSemanticSegmentation, PatProcessor
from transformers_pat.cli.arguments import run_script
from transformers_pat.data import SegmentationDataset
from transformers_pat.data.source import read_source
from transformers_pat.evaluation.evaluator import evaluate_dataset
from transformers_pat.training.augmentation import TrainingView


@dataclass
class DataArguments:
    data: str = field(metadata={"help": "Data to train on: FOLDER:SPLIT, or JSON with the fields of DataSource."})
    validation: str | None = field(default=None, metadata={"help": "Data to measure on afterwards."})
    model: str = field(default=PAT_NANO, metadata={"help": "Checkpoint to start from: a folder or a Hub name."})
    crop_size: int = field(default=192, metadata={"help": "Side of the square training crops, pixels."})


class Views(Dataset):
    """Random views of a data set, as the model's `forward` takes them."""

    def __init__(self, dataset: SegmentationDataset, view: TrainingView):
        self.dataset, self.view = dataset, view

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample = self.dataset[index]
        seed = int(torch.randint(2**31, ()))  # Trainer seeds torch, in its workers too
        pixel_values, labels = self.view(sample.image, sample.labels, np.random.default_rng(seed))
        return {"pixel_values": pixel_values, "labels": labels}


def main() -> None:
    arguments, training = HfArgumentParser((DataArguments, TrainingArguments)).parse_args_into_dataclasses()
    processor = PatProcessor.from_pretrained(arguments.model)
    model = PatForSemanticSegmentation.from_pretrained(arguments.model)
    dataset = read_source(arguments.data).open()
    model.set_vocabulary(dataset.names, processor)
    model.config.semantic_loss_ignore_index = dataset.ignore_index
    normalisation = processor.image_processor.image_mean, processor.image_processor.image_std
    trainer = Trainer(model, training, train_dataset=Views(dataset, TrainingView(arguments.crop_size, *normalisation)))
    trainer.train()
    trainer.save_model()
    processor.save_pretrained(training.output_dir)
    if arguments.validation:
        scores = evaluate_dataset(model.eval(), processor, read_source(arguments.validation).open()).metric.compute()
        trainer.log_metrics("eval", {name: scores[name] for name in ("mean_iou", "pixel_accuracy")})


if __name__ == "__main__":
    run_script(main)
