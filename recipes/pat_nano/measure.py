"""mIoU of the vision tower's own patch features against the class names of a data set."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import interpolate, normalize
from transformers import CLIPModel

from transformers_pat.data import FolderDataset
from transformers_pat.evaluation.metrics import SegmentationMetric

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
PATCH = 16


def dense_features(clip: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    """Unit-length patch features (N, dim, H/16, W/16) of normalised photos (N, 3, H, W)."""
    hidden = clip.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 1:]
    features = normalize(clip.visual_projection(clip.vision_model.post_layernorm(hidden)).float(), dim=-1)
    height, width = pixels.shape[-2] // PATCH, pixels.shape[-1] // PATCH
    return features.transpose(1, 2).unflatten(2, (height, width))


def to_pixels(image: Image.Image, short_side: int) -> torch.Tensor:
    """The whole photo at this short side, both sides rounded to whole patches: (1, 3, H, W), normalised."""
    scale = short_side / min(image.size)
    size = [max(1, round(side * scale / PATCH)) * PATCH for side in image.size]
    array = np.array(image.resize(size, Image.Resampling.BICUBIC))
    return (torch.from_numpy(array).permute(2, 0, 1)[None] / 255 - MEAN) / STD


@torch.no_grad()
def score(clip: CLIPModel, data: FolderDataset, names: torch.Tensor, short_side: int, every: int = 1) -> float:
    """mIoU over every `every`-th photo of the split; `names` (classes, dim) are the class names' embeddings."""
    metric = SegmentationMetric(len(names))
    for index in range(0, len(data), every):
        sample = data[index]
        features = dense_features(clip, to_pixels(sample.image, short_side))
        logits = torch.einsum("bdhw,cd->bchw", features, names)
        guess = interpolate(logits, sample.labels.shape, mode="bilinear").argmax(1)[0]
        metric.update(guess, torch.from_numpy(sample.labels))
    return metric.compute()["mean_iou"]
