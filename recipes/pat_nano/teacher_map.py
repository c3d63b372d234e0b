"""Maps the image teacher's features to text space, from image-level names only.

The map is linear. It starts as ridge regression from pooled features to the mean embedding of a photo's names, and is
then trained so that the share of a photo that goes to each name of its set, cell by cell, is above zero for the names
that the photo goes with and zero for the others. Cells compete for names as in segmentation, but nothing says where a
name is.

    python recipes/pat_nano/teacher_map.py --data DATA --work WORK
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from image_teacher import ImageTeacher, published_weights
from PIL import Image
from teacher import Teacher, TextSpace
from torch import nn

SHORT_SIDE = 224
RIDGE, STEPS, BATCH, RATE, SCALE = 1.0, 3600, 8, 1e-3, 10.0


@torch.no_grad()
def read_features(data: Path, files: list[str], cache: Path) -> dict[str, torch.Tensor]:
    """{photo: features of the teacher's last stage, (1280, H/16, W/16) float16}, kept in `cache`."""
    if not cache.is_file():
        network, features = ImageTeacher(), {}
        for file in files:
            image = Image.open(data / file).convert("RGB")
            scale = SHORT_SIDE / min(image.size)
            size = [max(1, round(side * scale / 32)) * 32 for side in image.size]
            pixels = torch.from_numpy(np.array(image.resize(size, Image.Resampling.BICUBIC))).permute(2, 0, 1)
            features[file] = network(pixels[None] / 255).last[0].half()
        torch.save(features, cache)
    return torch.load(cache, weights_only=True, mmap=True)


class NameMap(nn.Module):
    """Standardised features to unit-length embeddings; starts as ridge regression from `pooled` to `targets`."""

    def __init__(self, pooled: torch.Tensor, targets: torch.Tensor):
        super().__init__()
        self.mean, self.std = pooled.mean(0), pooled.std(0) + 1e-3
        rows = (pooled - self.mean) / self.std
        gram = rows.T @ rows + RIDGE * len(rows) * torch.eye(rows.shape[1])
        self.weight = nn.Parameter(torch.linalg.solve(gram, rows.T @ (targets - targets.mean(0))))
        self.bias = nn.Parameter(targets.mean(0))
        self.log_scale = nn.Parameter(torch.tensor(SCALE).log())

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(..., 1280) to (..., dim)."""
        return F.normalize((features - self.mean) / self.std @ self.weight + self.bias, dim=-1)

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The same map of features that are not standardised: weight (1280, dim) and bias (dim,)."""
        weight = (self.weight / self.std[:, None]).detach()
        return weight, (self.bias - self.mean @ weight).detach()


def photo_loss(embed: NameMap, cells: torch.Tensor, present: torch.Tensor, names: torch.Tensor, single: bool):
    """
    How far a photo's cells (P, 1280) are from its names; `present` (K,) of 0 and 1, `names` (K, dim).

    A photo with a `single` name (ImageNet) is classified by its mean embedding instead: what else it shows is unknown.
    """
    embeds, scale = embed(cells), embed.log_scale.exp()
    if single:
        logits = scale * F.normalize(embeds.mean(0), dim=-1) @ names.T
        return -0.5 * (present * logits.log_softmax(-1)).sum()
    share = (scale * embeds @ names.T).softmax(-1).mean(0).clamp(1e-5, 1 - 1e-5)
    found = -(present * share.log()).sum() / present.sum().clamp(min=1)
    return found - ((1 - present) * (1 - share).log()).sum()


def train(embed: NameMap, features: dict, train_names: dict, vocabularies: dict, table: dict, seed: int = 0) -> None:
    """One data set a step, drawn by the square root of its size."""
    sets: dict[str, list[str]] = {}
    for file, names in train_names.items():
        if names:
            sets.setdefault(file.split("/")[0], []).append(file)
    chances = np.sqrt([len(files) for files in sets.values()])
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(embed.parameters(), lr=RATE, weight_decay=1e-2)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=0.1)
    recent = []
    for step in range(STEPS):
        name = list(sets)[rng.choice(len(sets), p=chances / chances.sum())]
        vocabulary = vocabularies[name]
        names = torch.stack([table[word] for word in vocabulary])
        total = torch.zeros(())
        for file in rng.choice(sets[name], BATCH):
            present = torch.tensor([float(word in train_names[file]) for word in vocabulary])
            cells = features[file].float().flatten(1).T
            total = total + photo_loss(embed, cells, present, names, name.startswith("imagenet")) / BATCH
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        recent.append(total.item())
        if (step + 1) % 200 == 0:
            print(time.strftime("%H:%M:%S"), f"step {step + 1} loss {np.mean(recent):.3f}", flush=True)
            recent = []


@torch.no_grad()
def feature_statistics(data: Path, files: list[str]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Mean and standard deviation per channel of the teacher's three features over some photos."""
    network, sums, squares, count = ImageTeacher(), [0, 0, 0], [0, 0, 0], 0
    for file in files[:: len(files) // 200]:
        pixels = np.array(Image.open(data / file).convert("RGB").resize((SHORT_SIDE, SHORT_SIDE)))
        count += 1
        for level, feature in enumerate(network(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255)):
            sums[level] = sums[level] + feature.mean((0, 2, 3))
            squares[level] = squares[level] + feature.square().mean((0, 2, 3))
    mean = [total / count for total in sums]
    return mean, [(square / count - m**2).clamp(min=1e-4).sqrt() for square, m in zip(squares, mean, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder with names.json and text_space.pt")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    names = json.loads((args.work / "names.json").read_text())
    words = sorted({word for listed in names["vocabularies"].values() for word in listed})
    embeds = TextSpace.load(args.work / "text_space.pt")(Teacher()(words))
    table = dict(zip(words, embeds, strict=True))
    files = sorted(names["train"])
    features = read_features(args.data, files, args.work / "teacher_features.pt")
    named = [file for file in files if names["train"][file]]
    pooled = torch.stack([features[file].float().mean((1, 2)) for file in named])
    targets = torch.stack(
        [F.normalize(torch.stack([table[word] for word in names["train"][file]]).mean(0), dim=0) for file in named]
    )
    embed = NameMap(pooled, targets)
    train(embed, features, names["train"], names["vocabularies"], table)
    weight, bias = embed.folded()
    mean, std = feature_statistics(args.data, files)
    network = {
        name: value.half() if value.is_floating_point() else value for name, value in published_weights().items()
    }
    state = {"network": network, "weight": weight, "bias": bias, "names": embeds, "mean": mean, "std": std}
    torch.save(state, args.work / "teacher.pt")


if __name__ == "__main__":
    main()
