"""The metric against `evaluate`'s, the training step against a bare loop, and how soon the command line answers."""

import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from transformers_pat import PAT_NANO
from transformers_pat.training import loop
from transformers_pat.training.config import TrainConfig

from ..metric_speed import draw_maps, run_published, run_streaming
from .timing import Row, row, seconds, side_by_side

STEPS = (4, 20)  # the difference has neither start nor end in it


def measure(quick: bool = False) -> Iterator[Row]:
    """Metric, training step, start."""
    # What mask files hold, and what an argmax gives.
    for dtype in ("uint8", "int64"):
        maps = draw_maps(2 if quick else 10, 150, 50, dtype)
        ours, published = f"SegmentationMetric, {dtype} maps", "evaluate's mean_iou"
        tasks = {ours: partial(run_streaming, *maps, 150), published: partial(run_published, *maps, 150)}
        yield row("metric", ours, published, side_by_side(tasks, 1 if quick else 3), faster=True, aim="≥ 20")
    if not quick:
        yield training_step()
    command = [sys.executable, "-m", "transformers_pat.cli", "--help"]
    start = [seconds(lambda: subprocess.run(command, capture_output=True, check=True)) for _ in range(4)][1:]
    yield Row("start", "transformers-pat --help", "", sorted(start)[1], sorted(start)[1], "s", "< 0.5")


def training_step() -> Row:
    """Steps of pat-nano with eight crops; one thread computes, the loader has the other core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        write_photos(Path(folder, "data"))
        ours = [time_training(Path(folder), steps) for steps in STEPS]
        bare = [time_bare_loop(Path(folder), steps) for steps in STEPS]
    torch.set_num_threads(threads)
    what, against = "training step", "bare loop"
    per_step = {
        name: [(long - short) / (STEPS[1] - STEPS[0])] for name, (short, long) in ((what, ours), (against, bare))
    }
    return row("training", what, against, per_step, faster=True, unit="× its throughput", aim="≥ 0.95")


def make_config(folder: Path, steps: int) -> TrainConfig:
    return TrainConfig(
        output_dir=str(folder / f"run-{steps}"), init=PAT_NANO, train=[str(folder / "data:train")], samples=0,
        crop_size=192, batch_size=8, max_steps=steps, mixed_precision="no",
    )  # fmt: skip


def time_training(folder: Path, steps: int) -> float:
    config = make_config(folder, steps)
    return seconds(lambda: loop.train(config))


def time_bare_loop(folder: Path, steps: int) -> float:
    """The same model on batches that are there: forward, backward, clipping, optimizer."""
    config = make_config(folder, steps)
    accelerator = loop.make_accelerator(config)
    model, processor = loop.make_model(config)
    batches = loop.make_batches(config, processor, accelerator)
    vocabulary = loop.make_vocabulary(config, model, processor, batches)
    loader = iter(loop.make_loader(config, batches, 0))
    inputs = [loop.make_inputs(next(loader), accelerator, model, vocabulary) for _ in range(4)]
    optimizer = loop.make_optimizer(config, model)
    model.train()
    start = time.perf_counter()
    for step in range(steps):
        model(**inputs[step % len(inputs)]).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - start


def write_photos(folder: Path) -> None:
    """24 photos of 480×360 with a mask of three classes each."""
    random = np.random.default_rng(0)
    for part in ("images", "masks", "splits"):
        (folder / part).mkdir(parents=True)
    (folder / "classes.txt").write_text("0: sky\n1: tree\n2: road")
    for index in range(24):
        blocks = random.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((480, 360)).save(folder / "images" / f"p{index}.jpg")
        mask = np.repeat(np.arange(3, dtype=np.uint8), 120)[:, None].repeat(480, axis=1)
        Image.fromarray(mask).save(folder / "masks" / f"p{index}.png")
    (folder / "splits" / "train.txt").write_text("\n".join(f"p{index}" for index in range(24)))
