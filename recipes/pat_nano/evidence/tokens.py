"""What the tokens hold: use of the codes, pixels by level beside JPEG and WebP, meaning of the codes."""

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from tqdm import tqdm

from transformers_pat.data import IGNORE_INDEX, FolderDataset
from transformers_pat.evaluation.report import markdown_table as table
from transformers_pat.evaluation.tokens import TokenMetric
from transformers_pat.reconstruction import psnr, reconstruct

# Nothing but codes is stored, so a codec may shrink the photo first when its coarsest quality is still too large.
CODEC_SCALES = (1.0, 0.7, 0.5, 0.35)
PRESENT = 0.01  # share of the labelled pixels from which a photo counts as showing a class


@dataclass
class Photo:
    """What one photo contributes."""

    codes: list[np.ndarray]
    labels: np.ndarray
    image_embeds: torch.Tensor
    code_embeds: torch.Tensor
    quality: list[tuple[float, float]]  # PSNR and SSIM by number of levels
    codecs: dict[str, tuple[float, float] | None]


@torch.no_grad()
def read_photos(model, processor, dataset: FolderDataset, *metrics: TokenMetric) -> list[Photo]:
    """Encode, decode and compare every photo, at the model's own size; count it in all `metrics`."""
    return [_read_photo(model, processor, sample, metrics) for sample in tqdm(dataset, desc="tokens")]


def _read_photo(model, processor, sample, metrics: tuple[TokenMetric, ...]) -> Photo:
    original, levels = reconstruct(model, processor, sample.image)
    for metric in metrics:
        metric.update(levels)
    pixel_values = processor(images=[sample.image], return_tensors="pt").pixel_values
    budget = levels[-1].bits_per_pixel * original.width * original.height / 8
    return Photo(
        codes=[level.codes.numpy() for level in levels],
        labels=sample.labels,
        image_embeds=model.extract_features(pixel_values, with_image_embeds=True).image_embeds[0],
        code_embeds=model.get_image_embeds([level.codes[None] for level in levels])[0],
        quality=[compare(original, level.image) for level in levels],
        codecs={codec: compress(original, codec, budget) for codec in ("JPEG", "WEBP")},
    )


def compare(original: Image.Image, other: Image.Image) -> tuple[float, float]:
    """PSNR in dB and SSIM."""
    similarity = structural_similarity(np.asarray(original), np.asarray(other), channel_axis=2)
    return psnr(original, other), float(similarity)


def compress(original: Image.Image, codec: str, budget: float) -> tuple[float, float] | None:
    """The best PSNR, and its SSIM, that a codec reaches within `budget` bytes; None if nothing fits."""
    results = []
    for scale in CODEC_SCALES:
        small = original.resize([max(1, round(side * scale)) for side in original.size], Image.Resampling.LANCZOS)
        low, high, best = 0, 95, None
        while low <= high:
            quality = (low + high) // 2
            file = io.BytesIO()
            small.save(file, codec, quality=quality, **({"method": 6} if codec == "WEBP" else {"optimize": True}))
            if len(file.getvalue()) <= budget:
                best, low = file, quality + 1
            else:
                high = quality - 1
        if best:
            best.seek(0)
            restored = Image.open(best).convert("RGB").resize(original.size, Image.Resampling.BICUBIC)
            results.append(compare(original, restored))
    return max(results, default=None)


def use_table(metrics: dict[str, TokenMetric]) -> str:
    """Usage and perplexity of every level's codes, and bits per pixel of all levels up to it, in each set."""
    rows = [
        (
            *(name, f"{level.level}", f"{level.codebook_size}"),
            *(f"{level.usage:.1%}", f"{level.perplexity:.0f}", f"{level.bits_per_pixel:.4f}"),
        )
        for name, metric in metrics.items()
        for level in metric.compute()
    ]
    return table(("set", "level", "codes", "used", "perplexity", "bits per pixel up to here"), rows)


def quality_table(photos: dict[str, list[Photo]]) -> str:
    """PSNR and SSIM by number of levels, and of JPEG and WebP in as many bytes as all levels."""
    rows = []
    for name, read in photos.items():
        for levels in range(1, len(read[0].quality) + 1):
            rows.append(
                (
                    name,
                    f"PAT, {levels} of {len(read[0].quality)} levels",
                    *_mean([photo.quality[levels - 1] for photo in read]),
                    "",
                )
            )
        for codec in ("JPEG", "WEBP"):
            fitting = [photo.codecs[codec] for photo in read if photo.codecs[codec]]
            note = f"{len(read) - len(fitting)} of {len(read)} photos don't fit"
            rows.append((name, codec, *_mean(fitting), note if len(fitting) < len(read) else ""))
    return table(("set", "", "PSNR, dB", "SSIM", ""), rows)


def _mean(pairs: list[tuple[float, float]]) -> tuple[str, str]:
    if not pairs:
        return "–", "–"
    first, second = np.mean(pairs, axis=0)
    return f"{first:.2f}", f"{second:.3f}"


def recognition_table(photos: dict[str, list[Photo]], text_embeds: dict[str, torch.Tensor]) -> str:
    """Zero-shot classification and retrieval by CLIP's image embedding and by the one decoded from codes."""
    rows = []
    for name, read in photos.items():
        shares = np.stack([_shares(photo.labels, len(text_embeds[name])) for photo in read])
        cells = []
        for kind in ("image_embeds", "code_embeds"):
            scores = (torch.stack([getattr(photo, kind) for photo in read]) @ text_embeds[name].T).numpy()
            right = (scores.argmax(1) == shares.argmax(1))[shares.max(1) > 0].mean()
            cells += [f"{right:.3f}", f"{mean_average_precision(scores, shares > PRESENT):.3f}"]
        chance = f"{mean_average_precision(np.zeros_like(shares), shares > PRESENT):.3f}"
        rows.append((name, cells[0], cells[2], cells[1], cells[3], chance))
    header = ("set", "top-1, CLIP", "top-1, codes", "mAP, CLIP", "mAP, codes", "mAP by chance")
    return table(header, rows)


def _shares(labels: np.ndarray, num_labels: int) -> np.ndarray:
    counts = np.bincount(labels[labels != IGNORE_INDEX], minlength=num_labels)
    return counts / max(1, counts.sum())


def mean_average_precision(scores: np.ndarray, relevant: np.ndarray) -> float:
    """Photos ranked for each class: (photos, classes) scores, which ones show it. Equal scores count as chance."""
    precisions = []
    for score, shown in zip(scores.T, relevant.T, strict=True):
        if 0 < shown.sum():
            if np.ptp(score) == 0:
                precisions.append(shown.mean())
                continue
            ranked = shown[np.argsort(-score, kind="stable")]
            precisions.append((ranked.cumsum() / np.arange(1, len(ranked) + 1))[ranked].mean())
    return float(np.mean(precisions))


def purity_table(model, photos: dict[str, list[Photo]], names: dict[str, list[str]]) -> str:
    """Does a code mean something? Share of cells whose class is the most frequent one of their code."""
    rows = []
    for name, read in photos.items():
        for level, size in enumerate(model.config.codebook_sizes):
            counts = np.zeros((size, len(names[name])), dtype=np.int64)
            for photo in read:
                truth = cell_labels(photo.labels, photo.codes[level].shape)
                known = truth != IGNORE_INDEX
                np.add.at(counts, (photo.codes[level][known], truth[known]), 1)
            share = counts / counts.sum()
            cells = (share.max(1).sum(), share.sum(0).max(), mutual_information(share))
            rows.append((name, f"{level + 1}", *(f"{cell:.3f}" for cell in cells)))
    return table(("set", "level", "purity", "by chance", "mutual information"), rows)


def cell_labels(labels: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The label at the middle of each cell."""
    rows, columns = (((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(grid, labels.shape, strict=True))
    return labels[np.ix_(rows, columns)]


def mutual_information(share: np.ndarray) -> float:
    """Of codes and classes, as a share of the classes' entropy: 0 when codes say nothing, 1 when they say all."""
    expected = share.sum(1, keepdims=True) * share.sum(0, keepdims=True)
    together, classes = share > 0, share.sum(0)[share.sum(0) > 0]
    information = (share[together] * np.log(share[together] / expected[together])).sum()
    return float(information / -(classes * np.log(classes)).sum())
