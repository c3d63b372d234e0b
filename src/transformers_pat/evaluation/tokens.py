"""What a checkpoint's tokens hold: use of each codebook, bits per pixel, PSNR by number of levels decoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch
from tqdm.auto import tqdm

from ..codebook_pat import code_statistics
from ..data.base import SegmentationDataset
from ..modeling_pat import PatModel
from ..processing_pat import PatProcessor
from ..reconstruction import Reconstruction, reconstruct


@dataclass
class LevelScores:
    """Scores of one level of codes, 1 being the coarsest; bits and PSNR are of all levels up to it."""

    level: int
    codebook_size: int
    usage: float  # share of the codes that occur, 0 to 1
    perplexity: float  # exponential of the entropy of the codes, 1 to codebook_size
    bits_per_pixel: float  # without entropy coding, mean over photos
    psnr: float  # in dB, mean over photos


class TokenMetric:
    """Streaming statistics of codes and reconstructions over a data set, of `len(codebook_sizes)` levels."""

    def __init__(self, codebook_sizes: Sequence[int]):
        self._counts = [torch.zeros(size, dtype=torch.int64) for size in codebook_sizes]
        self._photos: list[list[tuple[float, float]]] = [[] for _ in codebook_sizes]

    def update(self, reconstructions: Sequence[Reconstruction]) -> None:
        """Count one photo, given its reconstruction from each number of levels."""
        for counts, photos, reconstruction in zip(self._counts, self._photos, reconstructions, strict=True):
            counts += torch.bincount(reconstruction.codes.flatten().cpu(), minlength=len(counts))
            photos.append((reconstruction.bits_per_pixel, reconstruction.psnr))

    def compute(self) -> list[LevelScores]:
        """Compute the scores of each level over all photos so far."""
        scores = []
        for level, (counts, photos) in enumerate(zip(self._counts, self._photos, strict=True), 1):
            usage, perplexity = code_statistics(counts)
            bits, psnr = zip(*photos, strict=True)
            scores.append(LevelScores(level, len(counts), usage.item(), perplexity.item(), mean(bits), mean(psnr)))
        return scores


def evaluate_tokens(
    model: PatModel, processor: PatProcessor, dataset: SegmentationDataset, progress: bool = True
) -> list[LevelScores]:
    """Encode and decode every photo of a data set; masks are not needed. `ValueError` if a photo is not usable."""
    metric = TokenMetric(model.config.codebook_sizes)
    for sample in tqdm(dataset, total=len(dataset), disable=not progress):
        metric.update(reconstruct(model, processor, sample.image)[1])
    return metric.compute()
