"""The image teacher with its map to text space: what the vision tower is distilled from."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from image_teacher import ImageTeacher, TeacherFeatures, fold_norms
from torch import nn
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

PATCH = 16


class DenseTeacher(nn.Module):
    """
    Dense and pooled embeddings in text space, and standardised features, of crops.

    Args:
        state: What `teacher_map.py` wrote: the network's weights, the map `weight` (1280, dim) and `bias` (dim,), the
            embeddings of all `names` (K, dim), and `mean` and `std` of the three features.
        scale: Crops are enlarged by this before the network sees them.
    """

    def __init__(self, state: dict, scale: float = 1.2):
        super().__init__()
        self.network = fold_norms(ImageTeacher(state["network"]))
        self.scale = scale
        for name in ("weight", "bias", "names"):
            self.register_buffer(name, state[name].float())
        for level, (mean, std) in enumerate(zip(state["mean"], state["std"], strict=True)):
            self.register_buffer(f"mean{level}", mean)
            self.register_buffer(f"std{level}", std)
        self.register_buffer("clip_mean", torch.tensor(OPENAI_CLIP_MEAN).view(1, 3, 1, 1))
        self.register_buffer("clip_std", torch.tensor(OPENAI_CLIP_STD).view(1, 3, 1, 1))

    @classmethod
    def load(cls, path: Path, device: torch.device) -> DenseTeacher:
        """The teacher on its device, in the memory layout that its convolutions like."""
        teacher = cls(torch.load(path, map_location="cpu", weights_only=True)).to(device)
        return teacher.to(memory_format=torch.channels_last).eval()

    @property
    def widths(self) -> tuple[int, int, int]:
        """Channels of the three features."""
        return len(self.mean0), len(self.mean1), len(self.mean2)

    def normalize_for_clip(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels from 0 to 1 as CLIP's image processor normalises them."""
        return (pixels - self.clip_mean) / self.clip_std

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """(..., 1280) features of the last stage to unit-length (..., dim) embeddings."""
        return F.normalize(features.float() @ self.weight + self.bias, dim=-1)

    @torch.no_grad()
    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """For (N, 3, S, S) from 0 to 1: "dense" (N, P, dim), "image" (N, dim), and "fine", "middle", "last"
        (N, P, width), features standardised per channel; P patches of 16 x 16 pixels."""
        cells = pixels.shape[-1] // PATCH
        side = round(cells * self.scale) * PATCH
        larger = F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False)
        features: TeacherFeatures = self.network(larger.contiguous(memory_format=torch.channels_last))
        fine = self.standardize(features.fine, 0, 2 * cells)
        fine = F.pixel_unshuffle(fine, 2)
        middle, last = self.standardize(features.middle, 1, cells), self.standardize(features.last, 2, cells)
        dense = F.adaptive_avg_pool2d(features.last.float(), cells).flatten(2).transpose(1, 2)
        flat = {
            name: x.flatten(2).transpose(1, 2)
            for name, x in zip(("fine", "middle", "last"), (fine, middle, last), strict=True)
        }
        return flat | {"dense": self.embed(dense), "image": self.embed(dense.mean(1))}

    def standardize(self, features: torch.Tensor, level: int, cells: int) -> torch.Tensor:
        mean, std = (getattr(self, f"{name}{level}").view(1, -1, 1, 1) for name in ("mean", "std"))
        return (F.adaptive_avg_pool2d(features, cells) - mean) / std
