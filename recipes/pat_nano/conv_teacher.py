"""Trains a convolutional teacher for the vision tower, from random initialisation, on two CPU cores.

Convolutions learn from few photos what a transformer has to be told. The teacher lives in the same space: every
cell's embedding is pulled towards the text embedding of what it shows. Run it again to go on from its last checkpoint.

    python recipes/pat_nano/conv_teacher.py --data DATA --work WORK --text CLIP_FOLDER
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measure import MEAN, STD
from photos import Photos, draw_batch
from safetensors.torch import load_file, save_file
from splits import measured_sets
from torch import nn
from vocabulary import Names, TextTower, check_held_out

from transformers_pat.evaluation.metrics import SegmentationMetric

# photos of each data set in one step
SHARES = {"camvid": 8, "msrc_v2": 10, "voc_animals": 32, "labelme_facade": 3, "coco_subset": 6, "clothing_ccp": 5}
# (until this share of the steps, crop size)
STAGES = [(0.6, 96), (1.0, 144)]
SHORT_SIDES = (1.0, 2.4)  # of the imagined photo, in crop sizes
WIDTHS = (64, 128, 256, 448)
STRIDE = 8
WARMUP, EMA = 200, 0.998
DROP_PATH, DROPOUT = 0.1, 0.1


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut; now and then skipped for a photo (stochastic depth)."""

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.second_norm.weight)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True) if stride != 1 else nn.Identity(),
                nn.Conv2d(in_channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        if self.training:
            keep = torch.rand(len(y), 1, 1, 1) >= DROP_PATH
            y = y * (keep / (1 - DROP_PATH))
        return F.relu(self.shortcut(x) + y)


class ConvTeacher(nn.Module):
    """A small residual network whose coarse maps are merged at a stride of 8 pixels (feature pyramid)."""

    def __init__(self, dim: int = 256):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        channels, stages = 32, []
        for width in WIDTHS:
            stages.append(nn.Sequential(ResidualBlock(channels, width, 2), ResidualBlock(width, width, 1)))
            channels = width
        self.stages = nn.ModuleList(stages)
        self.lateral = nn.ModuleList([nn.Conv2d(width, 128, 1) for width in (*WIDTHS[1:], WIDTHS[-1])])
        self.merge = nn.Sequential(nn.Conv2d(128, 128, 3, 1, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU())
        self.project = nn.Conv2d(128, dim, 1)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised photos (N, 3, H, W) to unit-length embeddings (N, H/8, W/8, dim)."""
        maps, x = [], self.stem(pixels.to(memory_format=torch.channels_last))
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        size = maps[1].shape[-2:]
        levels = [*maps[1:], maps[-1].mean((2, 3), keepdim=True)]  # the whole photo is the coarsest level
        merged = sum(
            F.interpolate(lateral(level), size, mode="bilinear") if level.shape[-1] > 1 else lateral(level)
            for lateral, level in zip(self.lateral, levels, strict=True)
        )
        hidden = F.dropout2d(self.merge(F.relu(merged)), DROPOUT, self.training)
        return F.normalize(self.project(hidden).permute(0, 2, 3, 1), dim=-1)


def load_conv_teacher(path: Path) -> ConvTeacher:
    """A trained teacher, to be asked."""
    teacher = ConvTeacher().to(memory_format=torch.channels_last)
    teacher.load_state_dict(load_file(path))
    return teacher.eval().requires_grad_(False)


def set_loss(
    embeds: torch.Tensor, labels: torch.Tensor, names: torch.Tensor, scale: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Weighted cross-entropy of one data set's crops, at every fourth pixel."""
    if (labels == 255).all():
        return 0 * embeds.sum()
    logits = (scale * embeds @ names.T).permute(0, 3, 1, 2)
    logits = F.interpolate(logits, labels.shape[-2:], mode="bilinear")
    return F.cross_entropy(logits, labels, weights, ignore_index=255, label_smoothing=0.05)


class Run:
    """The training's whole state: what a checkpoint keeps and what a step does."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.step = args, 0
        self.photos = {name: Photos(args.data / name, "train", args.work / "cache") for name in SHARES}
        check_held_out([name for photos in self.photos.values() for name in photos.names])
        text_tower = TextTower(args.text)
        self.names = {name: Names(photos.names, text_tower) for name, photos in self.photos.items()}
        torch.manual_seed(args.seed)
        self.teacher = ConvTeacher().to(memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.teacher)
        matrices = [p for p in self.teacher.parameters() if p.ndim > 1]
        vectors = [p for p in self.teacher.parameters() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98))

    def learning_rate(self) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / self.args.steps))
        return self.args.lr * min(1, (self.step + 1) / WARMUP) * max(0.01, cosine)

    def train_step(self) -> float:
        rng = np.random.default_rng((self.args.seed, self.step))
        generator = torch.Generator().manual_seed(self.step)
        torch.manual_seed(self.step)
        size = next(size for end, size in STAGES if self.step < end * self.args.steps)
        short_sides = (SHORT_SIDES[0] * size, SHORT_SIDES[1] * size)
        pixels, _, rows, labels = draw_batch(self.photos, SHARES, size, short_sides, rng, generator)
        embeds, scale = self.teacher((pixels - MEAN) / STD), self.teacher.logit_scale.exp()
        loss = torch.zeros(())
        for name, part in rows.items():
            table, weights = self.names[name].draw(rng), self.photos[name].class_weights
            loss = loss + SHARES[name] / len(pixels) * set_loss(embeds[part], labels[name], table, scale, weights)
        loss.backward()
        nn.utils.clip_grad_norm_(self.teacher.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        decay = min(EMA, (1 + self.step) / (10 + self.step))
        state = self.teacher.state_dict()
        for name, value in self.average.state_dict().items():
            value.lerp_(state[name], 1 - decay) if value.is_floating_point() else value.copy_(state[name])
        return loss.item()

    def save(self) -> None:
        path = self.args.work / "conv_teacher.pt"
        state = {n: getattr(self, n).state_dict() for n in ("teacher", "average", "optimizer")} | {"step": self.step}
        torch.save(state, path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)

    def resume(self) -> None:
        state = torch.load(self.args.work / "conv_teacher.pt", weights_only=True)
        for name in ("teacher", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]

    @torch.no_grad()
    def evaluate(self, short_side: int, every: int) -> str:
        """mIoU of every `every`-th photo of the measured sets."""
        self.average.eval()
        scores = []
        for name, data in measured_sets(self.args.data).items():
            metric, table = SegmentationMetric(len(data.names)), self.names[name].plain
            for index in range(0, len(data), every):
                sample = data[index]
                image = sample.image
                factor = short_side / min(image.size)
                size = [round(side * factor / STRIDE) * STRIDE for side in image.size]
                pixels = torch.from_numpy(np.array(image.resize(size))).permute(2, 0, 1)[None] / 255
                logits = (self.average((pixels - MEAN) / STD) @ table.T).permute(0, 3, 1, 2)
                guess = F.interpolate(logits, sample.labels.shape, mode="bilinear").argmax(1)[0]
                metric.update(guess, torch.from_numpy(sample.labels))
            scores.append(f"{name} {metric.compute()['mean_iou']:.4f}")
        return f"short side {short_side}, every {every}. photo: " + ", ".join(scores)

    def train(self) -> None:
        losses, begin, seen = [], time.monotonic(), self.step
        while self.step < self.args.steps:
            losses.append(self.train_step())
            if self.step % 20 == 0:
                speed = (self.step - seen) / (time.monotonic() - begin)
                log(f"step {self.step} loss {np.mean(losses):.4f} {speed:.2f} steps/s lr {self.learning_rate():.1e}")
                losses, begin, seen = [], time.monotonic(), self.step
            if self.step % 100 == 0:
                self.save()
            if self.step % 1000 == 0 and self.step < self.args.steps:
                log(self.evaluate(192, 3))
                begin = time.monotonic()
        self.save()
        weights = {name: value.contiguous() for name, value in self.average.state_dict().items()}
        save_file(weights, self.args.work / "conv_teacher.safetensors")
        for short_side in (160, 192, 224, 256):
            log(self.evaluate(short_side, 1))


def log(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for caches and checkpoints")
    parser.add_argument("--text", type=Path, required=True, help="folder of the text tower")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    run = Run(args)
    if (args.work / "conv_teacher.pt").is_file():
        run.resume()
    log(f"{sum(p.numel() for p in run.teacher.parameters()) / 1e6:.2f} M parameters, {args}")
    run.train()


if __name__ == "__main__":
    main()
