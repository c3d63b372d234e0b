"""Training photos as one stack of squares on the training device, and random crops of them, recoloured and mixed.

python recipes/pat_nano/crops.py --data DATA --names WORK/names.json --output WORK/photos.pt
"""

from __future__ import annotations

import argparse
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

SIDE, QUALITY = 208, 80  # of the stored squares
SHORT_SIDES = (144.0, 400.0)  # a crop shows a photo as if its short side had this many pixels
STRETCH = 1.25
CUTMIX, MIXUP = 0.3, 0.3  # shares of a batch
# How often photos of a set are drawn, relative to their number.
SHARES = {"camvid": 3.0, "msrc_v2": 3.0, "labelme_facade": 3.0, "coco_subset": 3.0, "clothing_ccp": 0.7}


def pack(data: Path, names: Path, output: Path, parts: int) -> None:
    """Write the photos listed in `names` as small WebP squares, in `parts` files."""
    files = sorted(json.loads(names.read_text())["train"])
    for part in range(parts):
        photos, aspects, weights = [], [], []
        for file in files[part::parts]:
            image = Image.open(data / file).convert("RGB")
            buffer = io.BytesIO()
            image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "webp", quality=QUALITY)
            photos.append(torch.from_numpy(np.frombuffer(buffer.getvalue(), dtype=np.uint8).copy()))
            aspects.append(image.width / image.height)
            weights.append(SHARES.get(file.split("/")[0], 1.0))
        path = output if parts == 1 else output.with_stem(f"{output.stem}{part}")
        torch.save({"photos": photos, "aspects": torch.tensor(aspects), "weights": torch.tensor(weights)}, path)


class PhotoBank:
    """All photos: `squares` (N, 3, SIDE, SIDE) uint8, `aspects` width over height and `weights` of drawing, (N,)."""

    def __init__(self, squares: torch.Tensor, aspects: torch.Tensor, weights: torch.Tensor):
        self.squares, self.aspects, self.weights = squares, aspects, weights

    @classmethod
    def load(cls, paths: list[Path], device: torch.device) -> PhotoBank:
        parts = [torch.load(path, weights_only=True) for path in paths]
        with ThreadPoolExecutor() as pool:
            squares = torch.stack(list(pool.map(decode, [photo for part in parts for photo in part["photos"]])))
        aspects, weights = (torch.cat([part[name] for part in parts]) for name in ("aspects", "weights"))
        return cls(squares.to(device), aspects.to(device), weights.to(device))


def decode(photo: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(io.BytesIO(photo.numpy().tobytes())).convert("RGB"))).permute(2, 0, 1)


def draw_windows(aspects: torch.Tensor, crop: int) -> torch.Tensor:
    """Random windows (N, 4) of photos: left, top, right, bottom as fractions; half of them mirrored (right < left)."""
    count, device = len(aspects), aspects.device

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.empty(count, device=device).uniform_(low, high)

    low, high = (torch.tensor(side).log().item() for side in SHORT_SIDES)
    short = uniform(low, high).exp()
    stretch = (uniform(-0.5, 0.5) * torch.tensor(STRETCH).log().item()).exp()
    width = (crop * stretch / (short * aspects.clamp(min=1))).clamp(max=1)
    height = (crop / stretch / (short / aspects.clamp(max=1))).clamp(max=1)
    left, top = uniform(0, 1) * (1 - width), uniform(0, 1) * (1 - height)
    mirrored = uniform(0, 1) < 0.5
    start, end = torch.where(mirrored, left + width, left), torch.where(mirrored, left, left + width)
    return torch.stack([start, top, end, top + height], dim=1)


def cut(squares: torch.Tensor, windows: torch.Tensor, crop: int) -> torch.Tensor:
    """The windows of (N, 3, SIDE, SIDE) uint8 pictures: (N, 3, crop, crop) from 0 to 1."""
    steps = (torch.arange(crop, device=windows.device) + 0.5) / crop
    x = windows[:, 0:1] + steps * (windows[:, 2] - windows[:, 0])[:, None]
    y = windows[:, 1:2] + steps * (windows[:, 3] - windows[:, 1])[:, None]
    grid = torch.stack([x[:, None].expand(-1, crop, -1), y[:, :, None].expand(-1, -1, crop)], dim=-1) * 2 - 1
    return F.grid_sample(squares.float() / 255, grid, mode="bilinear", padding_mode="border", align_corners=False)


def jitter(pixels: torch.Tensor) -> torch.Tensor:
    """Random brightness, contrast, saturation and tint per photo, now and then grey. (N, 3, H, W) from 0 to 1."""
    count, device = len(pixels), pixels.device

    def uniform(low: float, high: float, channels: int = 1) -> torch.Tensor:
        return torch.empty(count, channels, 1, 1, device=device).uniform_(low, high)

    weights = torch.tensor([0.299, 0.587, 0.114], device=device).view(1, 3, 1, 1)
    grey = (pixels * weights).sum(1, keepdim=True)
    pixels = grey + (pixels - grey) * uniform(0.5, 1.5) * (uniform(0, 1) > 0.05)
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * uniform(0.65, 1.35)
    return (pixels * uniform(0.7, 1.3) * uniform(0.93, 1.07, 3)).clamp(0, 1)


def mix(pixels: torch.Tensor) -> torch.Tensor:
    """Paste a rectangle of another crop into some crops (CutMix), blend others with one (mixup)."""
    count, side, device = len(pixels), pixels.shape[-1], pixels.device
    other, chance = pixels.roll(1, 0), torch.rand(count, device=device)
    extent = torch.empty(2, count, device=device).uniform_(0.25, 0.75)
    start = torch.rand(2, count, device=device) * (1 - extent)
    steps = (torch.arange(side, device=device) + 0.5) / side
    rows, columns = ((steps >= s[:, None]) & (steps < (s + e)[:, None]) for s, e in zip(start, extent, strict=True))
    share = (rows[:, :, None] & columns[:, None, :]).float()
    blend = torch.empty(count, 1, 1, device=device).uniform_(0.2, 0.5)
    chance = chance[:, None, None]
    share = torch.where(chance < CUTMIX, share, torch.where(chance < CUTMIX + MIXUP, blend, torch.zeros_like(blend)))
    return pixels + share[:, None] * (other - pixels)


def draw_batch(bank: PhotoBank, count: int, crop: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (count, 3, crop, crop) from 0 to 1 and windows (count, 4)."""
    rows = torch.multinomial(bank.weights, count, replacement=True)
    windows = draw_windows(bank.aspects[rows], crop)
    return mix(jitter(cut(bank.squares[rows], windows, crop))), windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--names", type=Path, required=True, help="names.json, which lists the training photos")
    parser.add_argument("--output", type=Path, required=True, help="file to write")
    parser.add_argument("--parts", type=int, default=1, help="number of files to divide the photos over")
    args = parser.parse_args()
    pack(args.data, args.names, args.output, args.parts)


if __name__ == "__main__":
    main()
