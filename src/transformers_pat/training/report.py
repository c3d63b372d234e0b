"""What a training run tells: progress bar, tracker, skipped files, sample pictures."""

import time

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm


class TrainingReport:
    """
    Losses, code usage and perplexity per level, learning rate and speed, as means over the steps since the last line.

    Args:
        accelerator: With its trackers started.
        progress: The progress bar, one count a step.
        every: Steps between two lines.
        images_per_step: Of all processes together.
    """

    def __init__(self, accelerator: Accelerator, progress: tqdm, every: int, images_per_step: int):
        self.accelerator, self.progress, self.every = accelerator, progress, every
        self.images_per_step = images_per_step
        self.skipped: set[str] = set()
        self._sums: dict[str, torch.Tensor] = {}
        self._count, self._started = 0, time.perf_counter()

    def skip(self, messages: list[str]) -> None:
        """Name the samples that could not be used, each once."""
        for message in messages:
            if message not in self.skipped:
                self.skipped.add(message)
                tqdm.write(f"skipped: {message}")

    def add(self, outputs) -> None:
        """Count the outputs of one forward; nothing is copied from the device yet."""
        values = {name: outputs[name].detach() for name in outputs if name.endswith("loss")}
        for name in ("codebook_usage", "codebook_perplexity"):
            values |= {f"{name}_{level}": value for level, value in enumerate(outputs[name].detach())}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.float()
        self._count += 1

    def step(self, step: int, learning_rate: float) -> None:
        """Show and log what was added, if `step` is one to do so."""
        if step % self.every:
            return
        means = self.accelerator.reduce(torch.stack(list(self._sums.values())) / self._count, "mean")
        values = dict(zip(self._sums, means.tolist(), strict=True))
        now = time.perf_counter()
        values["images_per_second"] = self.every * self.images_per_step / (now - self._started)
        self.accelerator.log({**values, "learning_rate": learning_rate}, step=step)
        self.progress.set_postfix(_abbreviate(values))
        self._sums, self._count, self._started = {}, 0, now

    def close(self) -> None:
        """Say how many samples were left out."""
        if self.skipped:
            self.accelerator.print(f"{len(self.skipped)} samples of process 0 were skipped, each named above")


def _abbreviate(values: dict[str, float]) -> dict[str, str]:
    """For the progress bar: one number per loss, usage and perplexity of all levels together."""
    short = {name.removesuffix("_loss"): f"{value:.3g}" for name, value in values.items() if name.endswith("loss")}
    for name in ("codebook_usage", "codebook_perplexity"):
        levels = [value for key, value in values.items() if key.startswith(name)]
        short[name.removeprefix("codebook_")] = "/".join(f"{value:.2g}" for value in levels)
    return {**short, "images/s": f"{values['images_per_second']:.0f}"}
