"""The training photos, decoded once, and the random crops made from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from transformers_pat.data import IGNORE_INDEX, FolderDataset

LABEL_STRIDE = 4
CUTMIX, CLASSMIX = 0.3, 0.3  # chance of a crop


def decode(folder: Path, split: str, cache: Path) -> dict:
    """{names, images: [H x W x 3 uint8], labels: [H x W uint8], files}: a whole split, decoded, kept in `cache`."""
    path = cache / f"{folder.name}-{split}.pt"
    if not path.is_file():
        data = FolderDataset(folder, split)
        samples = list(data)
        decoded = {
            "names": data.names,
            "images": [np.asarray(sample.image) for sample in samples],
            "labels": [sample.labels.astype(np.uint8) for sample in samples],
            "files": [sample.file_name for sample in samples],
        }
        cache.mkdir(parents=True, exist_ok=True)
        torch.save(decoded, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    return torch.load(path, weights_only=False)


def random_crop(
    image: np.ndarray, labels: np.ndarray, size: int, short_side: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float, float]]:
    """A random window of the photo, resized to `size` x `size` pixels.

    The photo is imagined at a short side drawn from `short_side`, its shape stretched by up to 1.25, and the window
    is what `size` pixels then cover (the whole photo at most). Returns the pixels (uint8, size x size x 3), the labels
    at every fourth pixel, and the window (left, top, right, bottom) as fractions of the photo: the position embedding
    is read at that window, so that a crop is trained as the part of a whole photo that it is.
    """
    height, width = labels.shape
    zoom = np.exp(rng.uniform(np.log(short_side[0]), np.log(short_side[1]))) / min(height, width)
    stretch = np.exp(rng.uniform(-1, 1) * np.log(1.25) / 2)
    box_w, box_h = min(size / zoom * stretch, width), min(size / zoom / stretch, height)
    left, top = rng.uniform(0, width - box_w), rng.uniform(0, height - box_h)
    box = (left, top, left + box_w, top + box_h)
    pixels = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box))
    steps = (np.arange(size // LABEL_STRIDE) + 0.5) * LABEL_STRIDE / size
    rows = (top + steps * box_h).astype(int).clip(0, height - 1)
    columns = (left + steps * box_w).astype(int).clip(0, width - 1)
    coarse = labels[rows][:, columns]
    window = (left / width, top / height, box[2] / width, box[3] / height)
    if rng.random() < 0.5:
        pixels, coarse = pixels[:, ::-1], coarse[:, ::-1]
        window = (1 - window[2], window[1], 1 - window[0], window[3])
    return pixels, coarse, window


def jitter(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random brightness, contrast, saturation and tint per photo, now and then grey. (N, 3, H, W) in 0..1."""
    count = pixels.shape[0]

    def draw(low: float, high: float, channels: int = 1) -> torch.Tensor:
        return torch.empty(count, channels, 1, 1).uniform_(low, high, generator=generator)

    grey = (pixels * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    saturation = draw(0.5, 1.5) * (draw(0, 1) > 0.08)
    pixels = grey + (pixels - grey) * saturation
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * draw(0.6, 1.4)
    return (pixels * draw(0.65, 1.35) * draw(0.92, 1.08, 3)).clamp_(0, 1)


def cutmix(pixels: torch.Tensor, labels: torch.Tensor, chance: float, rng: np.random.Generator) -> None:
    """Pastes, in place, a random rectangle of the next photo of the same data set into some photos.

    `pixels` (N, 3, S, S), `labels` (N, S/4, S/4). Rectangles keep to the label grid.
    """
    side = labels.shape[-1]
    source, source_labels = pixels.roll(1, 0), labels.roll(1, 0)
    for i in np.flatnonzero(rng.random(len(pixels)) < chance):
        height, width = (rng.uniform(0.25, 0.75, 2) * side).astype(int)
        top, left = rng.integers(0, side - height + 1), rng.integers(0, side - width + 1)
        rows, columns = slice(top, top + height), slice(left, left + width)
        labels[i, rows, columns] = source_labels[i, rows, columns]
        rows, columns = (slice(s.start * LABEL_STRIDE, s.stop * LABEL_STRIDE) for s in (rows, columns))
        pixels[i, :, rows, columns] = source[i, :, rows, columns]


def classmix(pixels: torch.Tensor, labels: torch.Tensor, chance: float, rng: np.random.Generator) -> None:
    """Pastes, in place, half of the classes of the next photo of the same data set into some photos (ClassMix).

    `pixels` (N, 3, S, S), `labels` (N, S/4, S/4).
    """
    source, source_labels = pixels.roll(1, 0), labels.roll(1, 0)
    for i in np.flatnonzero(rng.random(len(pixels)) < chance):
        found = [label for label in source_labels[i].unique().tolist() if label != IGNORE_INDEX]
        if not found:
            continue
        chosen = rng.permutation(found)[: (len(found) + 1) // 2]
        pasted = torch.isin(source_labels[i], torch.from_numpy(chosen))
        labels[i][pasted] = source_labels[i][pasted]
        fine = pasted.repeat_interleave(LABEL_STRIDE, 0).repeat_interleave(LABEL_STRIDE, 1)
        pixels[i] = torch.where(fine, source[i], pixels[i])


def rarity(labels: list[np.ndarray], classes: int) -> np.ndarray:
    """How often to draw each photo: as the square root of one over the frequency of its rarest class."""
    pixels = np.stack([np.bincount(mask.ravel(), minlength=256)[:classes] for mask in labels])
    present = pixels > 0.01 * pixels.sum(1, keepdims=True)
    weights = np.where(present, 1 / np.sqrt(present.mean(0).clip(1 / len(labels))), 0).max(1)
    return weights / weights.sum()


def class_weights(labels: list[np.ndarray], classes: int) -> torch.Tensor:
    """Loss weights that lift rare classes a little: (share of the pixels) to the power -0.35, within 0.3 .. 4."""
    pixels = np.sum([np.bincount(mask.ravel(), minlength=256)[:classes] for mask in labels], axis=0)
    share = (pixels / pixels.sum()).clip(1e-5)
    weights = share**-0.35
    return torch.tensor((weights / (weights * share).sum()).clip(0.3, 4), dtype=torch.float32)


class Photos:
    """One data set's training photos, drawn at random without end, photos of rare classes more often."""

    def __init__(self, folder: Path, split: str, cache: Path):
        data = decode(folder, split, cache)
        self.names: list[str] = data["names"]
        self._images, self._labels = data["images"], data["labels"]
        self._chances = rarity(self._labels, len(self.names))
        self.class_weights = class_weights(self._labels, len(self.names))

    def draw(
        self, count: int, size: int, short_side: tuple[float, float], rng: np.random.Generator
    ) -> tuple[torch.Tensor, ...]:
        """uint8 pixels (count, 3, size, size), labels (count, size/4, size/4) int64, windows (count, 4)."""
        crops = []
        for index in rng.choice(len(self._images), count, p=self._chances):
            for _ in range(4):  # a crop with hardly a labelled pixel teaches nothing
                crop = random_crop(self._images[index], self._labels[index], size, short_side, rng)
                if (crop[1] != IGNORE_INDEX).mean() > 0.1:
                    break
            crops.append(crop)
        pixels = torch.from_numpy(np.stack([crop[0] for crop in crops])).permute(0, 3, 1, 2)
        labels = torch.from_numpy(np.stack([crop[1] for crop in crops])).long()
        return pixels, labels, torch.tensor([crop[2] for crop in crops], dtype=torch.float32)


def draw_batch(
    photos: dict[str, Photos], counts: dict[str, int], size: int, short_side: tuple[float, float],
    rng: np.random.Generator, generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor, dict[str, slice], dict[str, torch.Tensor]]:  # fmt: skip
    """Crops of all data sets, jittered and mixed with others of their set.

    Returns pixels (N, 3, size, size) in 0..1, windows (N, 4), the rows of each set, and its labels.
    """
    drawn = {name: of_set.draw(counts[name], size, short_side, rng) for name, of_set in photos.items()}
    pixels = jitter(torch.cat([crops for crops, _, _ in drawn.values()]) / 255, generator)
    start, rows = 0, {}
    for name, (crops, labels, _) in drawn.items():
        rows[name] = slice(start, start + len(crops))
        cutmix(pixels[rows[name]], labels, CUTMIX, rng)
        classmix(pixels[rows[name]], labels, CLASSMIX, rng)
        start += len(crops)
    windows = torch.cat([of_set[2] for of_set in drawn.values()])
    return pixels, windows, rows, {name: labels for name, (_, labels, _) in drawn.items()}
