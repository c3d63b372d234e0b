"""What a training run shows: losses and speed, skipped samples, validation scores and pictures."""

import time
from pathlib import Path

import torch
from accelerate import Accelerator
from rich.table import Table
from tqdm.auto import tqdm
from transformers.utils import ModelOutput

from ..data.base import SegmentationDataset
from ..evaluation.evaluator import evaluate_dataset
from ..evaluation.predictors import ClassPredictor
from ..modeling_pat import PatForSemanticSegmentation, PatModel
from ..processing_pat import PatProcessor
from ..reconstruction import reconstruct
from ..visualization import overlay, reconstruction_sheet
from .config import TrainConfig


class TrainingReport:
    """
    Losses, code usage and perplexity per level, learning rate and speed, as means over the steps since the last line.

    Args:
        accelerator: With its trackers started.
        progress: The progress bar, one count a step, at the number of steps done before.
        every: Steps between two lines.
        images_per_step: Of all processes together.
    """

    def __init__(self, accelerator: Accelerator, progress: tqdm, every: int, images_per_step: int):
        self.accelerator, self.progress, self.every = accelerator, progress, every
        self.images_per_step = images_per_step
        self.skipped: set[str] = set()
        self._sums: dict[str, torch.Tensor] = {}
        self._count, self._last_step, self._started = 0, int(progress.n), time.perf_counter()

    def skip(self, messages: list[str]) -> None:
        """Name the samples that could not be used, each once."""
        for message in messages:
            if message not in self.skipped:
                self.skipped.add(message)
                tqdm.write(f"skipped: {message}")

    def add(self, outputs: ModelOutput) -> None:
        """Add the outputs of one forward; nothing is copied from the device yet."""
        values = {name: outputs[name].detach() for name in outputs if name.endswith("loss")}
        for name in ("codebook_usage", "codebook_perplexity"):
            values |= {f"{name}_{level}": value for level, value in enumerate(outputs[name].detach())}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.float()
        self._count += 1

    def step(self, step: int, learning_rate: float) -> None:
        """Count a step; every `every` steps, show and log what was added."""
        self.progress.update()
        if step % self.every:
            return
        means = self.accelerator.reduce(torch.stack(list(self._sums.values())) / self._count, "mean")
        values = dict(zip(self._sums, means.tolist(), strict=True))
        now = time.perf_counter()
        images = (step - self._last_step) * self.images_per_step
        values["images_per_second"] = images / (now - self._started)
        self.accelerator.log({**values, "learning_rate": learning_rate}, step=step)
        self.progress.set_postfix(_abbreviate(values))
        self._sums, self._count, self._last_step, self._started = {}, 0, step, now

    def close(self) -> None:
        """Print the number of samples that were left out."""
        if self.skipped:
            self.accelerator.print(f"{len(self.skipped)} samples of process 0 were skipped, each named above")


def _abbreviate(values: dict[str, float]) -> dict[str, str]:
    """For the progress bar: one number per loss, usage and perplexity of all levels together."""
    short = {name.removesuffix("_loss"): f"{value:.3g}" for name, value in values.items() if name.endswith("loss")}
    for name in ("codebook_usage", "codebook_perplexity"):
        levels = [value for key, value in values.items() if key.startswith(name)]
        short[name.removeprefix("codebook_")] = "/".join(f"{value:.2g}" for value in levels)
    return {**short, "images/s": f"{values['images_per_second']:.0f}"}


def open_validation_sets(config: TrainConfig) -> dict[str, SegmentationDataset]:
    """Open the data sets to validate on; `ValueError` if one is missing, streamed or without the masks it needs."""
    datasets = {}
    for source in config.sources(config.validation):
        if source.streaming:
            raise ValueError(f"--validation: {source.name} is streamed and can't be validated on")
        datasets[source.name] = source.open()
        if config.objective == "segmentation" and not datasets[source.name].names:
            raise ValueError(f"--validation: {source.name} has no masks to compare with")
    return datasets


def validate(
    config: TrainConfig,
    accelerator: Accelerator,
    evaluated: torch.nn.Module,
    processor: PatProcessor,
    datasets: dict[str, SegmentationDataset],
    step: int,
) -> dict[str, dict[str, float]]:
    """
    Log the mean IoU of every validation set, and save pictures of its first photos.

    Returns:
        Data set -> class -> IoU, 0 to 1, NaN for a class that is neither true nor predicted; last, "mean".
    """
    was_training, results = evaluated.training, {}
    evaluated.eval()
    for name, dataset in datasets.items():
        if accelerator.is_main_process:
            save_samples(config, evaluated, processor, name, dataset, step)
        if isinstance(evaluated, PatForSemanticSegmentation):
            result = evaluate_dataset(evaluated, processor, dataset, accelerator=accelerator, progress=False)
            scores = result.metric.compute()
            score = scores["mean_iou"]
            results[name] = {**dict(zip(dataset.names, scores["per_class_iou"], strict=True)), "mean": score}
            accelerator.log({f"mean_iou/{name}": score}, step=step)
            accelerator.print(f"step {step}: mean IoU {score:.3f} on {name}")
    evaluated.train(was_training)
    return results


def validation_table(name: str, validations: dict[int, dict[str, dict[str, float]]]) -> Table:
    """
    IoU by class of one validation set, after the first and the last validation.

    Args:
        name: The data set.
        validations: Step -> what [`validate`] returned.
    """
    steps = sorted({min(validations), max(validations)})
    table = Table("class", title=name, title_justify="left")
    for step in steps:
        table.add_column(f"IoU, step {step}" if step else "IoU before", justify="right")
    for label in validations[steps[0]][name]:
        table.add_row(label, *(f"{validations[step][name][label]:.3f}".replace("nan", "-") for step in steps))
    return table


@torch.no_grad()
def save_samples(
    config: TrainConfig,
    evaluated: torch.nn.Module,
    processor: PatProcessor,
    name: str,
    dataset: SegmentationDataset,
    step: int,
) -> None:
    """Save pictures of a data set's first photos: reconstructions by level, and the label map over the photo."""
    folder = Path(config.output_dir, "samples", f"step_{step:07d}")
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(min(config.samples, len(dataset))):
        photo = dataset[index].image
        path = folder / f"{name.replace(' ', '_')}_{index}"
        pat = evaluated if isinstance(evaluated, PatModel) else evaluated.pat
        original, levels = reconstruct(pat, processor, photo)
        reconstruction_sheet(original, [level.image for level in levels]).save(f"{path}_levels.png")
        if isinstance(evaluated, PatForSemanticSegmentation):
            pixel_values = processor(images=[photo], return_tensors="pt").pixel_values.to(evaluated.device)
            label_map = ClassPredictor(evaluated, processor, dataset)(pixel_values, photo.size[::-1])
            overlay(photo, label_map.cpu(), dataset.names).save(f"{path}_labels.png")
