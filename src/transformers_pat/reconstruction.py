"""From a photo to tokens and back: reconstructions by number of levels, with their bits and errors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from .modeling_pat import PatModel
from .processing_pat import PatProcessor


@dataclass
class Reconstruction:
    """A photo decoded from the coarsest `num_levels` levels of codes, at the model's size."""

    num_levels: int
    codes: torch.Tensor  # (rows, columns) int64, of the finest of these levels
    image: Image.Image  # RGB
    psnr: float  # to the photo at the same size, in dB; NaN without the photo
    bits_per_pixel: float  # of these levels, without entropy coding


@torch.inference_mode()
def reconstruct(
    model: PatModel, processor: PatProcessor, photo: Image.Image
) -> tuple[Image.Image, list[Reconstruction]]:
    """
    Encode a photo, and decode it from 1, 2, ... levels of codes.

    Returns:
        The photo at the model's size, and a [`Reconstruction`] for each number of levels.
    """
    pixel_values = processor(images=[photo], return_tensors="pt")["pixel_values"].to(model.device)
    original = to_image(pixel_values[0], processor)
    codes = model.encode(pixel_values).codes
    return original, reconstruct_codes(model, processor, codes, tuple(pixel_values.shape[-2:]), original)


@torch.inference_mode()
def reconstruct_codes(
    model: PatModel,
    processor: PatProcessor,
    codes: Sequence[torch.Tensor],
    size: tuple[int, int],
    original: Image.Image | None = None,
) -> list[Reconstruction]:
    """
    Decode one photo's codes from 1, 2, ... levels.

    Args:
        model: The checkpoint that made the codes.
        processor: Its processor.
        codes: (1, rows, columns) int64 of each level.
        size: Height and width in pixels that were encoded.
        original: The photo at that size, to compare with.
    """
    bits, results = 0.0, []
    for num_levels, (level, codebook_size) in enumerate(zip(codes, model.config.codebook_sizes, strict=True), 1):
        bits += level.numel() * math.log2(codebook_size)
        pixels = model.decode(codes, num_levels=num_levels, output_size=size)
        image = to_image(pixels[0], processor)
        error = math.nan if original is None else psnr(original, image)
        results.append(Reconstruction(num_levels, level[0], image, error, bits / (size[0] * size[1])))
    return results


def to_image(pixel_values: torch.Tensor, processor: PatProcessor) -> Image.Image:
    """Undo the processor's normalisation: (3, H, W) pixel values to an RGB picture."""
    image_processor = processor.image_processor
    mean, std = (torch.tensor(values) for values in (image_processor.image_mean, image_processor.image_std))
    pixels = pixel_values.float().cpu().permute(1, 2, 0) * std + mean
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().byte().numpy())


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio of two RGB pictures of the same size, in dB; infinite if they are equal."""
    error = np.square(np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)).mean()
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
