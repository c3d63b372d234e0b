"""Reading photos: orientation, 16 bits, palettes, CMYK and transparency, the same wherever a photo is used."""

import os

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from transformers.image_utils import load_image


def load_photo(source, timeout: float | None = None) -> PIL.Image.Image:
    """
    Read a photo and turn it upright as its EXIF orientation says; its mode is kept, see [`to_rgb`].

    Args:
        source: Path, URL, base64 string, binary file or PIL image.
        timeout: Seconds to wait for a URL.

    Raises:
        ValueError: If it cannot be read (missing, empty, truncated, no image); one line that names the picture.
    """
    is_file = hasattr(source, "read")
    if not is_file and not isinstance(source, (str, os.PathLike, PIL.Image.Image)):
        raise ValueError(f"a photo must be a PIL image, a path or a URL, got {type(source).__name__}")
    if is_file or isinstance(source, PIL.Image.Image):
        name = getattr(source, "filename", "") or "given"
    else:
        name = source = os.fspath(source)
    try:
        if isinstance(source, PIL.Image.Image):
            photo = source
        elif is_file or os.path.isfile(source):
            photo = PIL.Image.open(source)  # not load_image: it cuts 16-bit photos to white, drops transparency
        else:
            photo = load_image(source, timeout=timeout)
        photo.load()
        return PIL.ImageOps.exif_transpose(photo)
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"cannot read the image {str(name)[:200]}: {reason[:200]}") from error


def to_rgb(photo: PIL.Image.Image) -> PIL.Image.Image:
    """Convert any mode to 8-bit RGB; what is transparent becomes white, 16-bit values are scaled down."""
    if photo.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in photo.info:
        layer = photo.convert("RGBA")
        photo = PIL.Image.alpha_composite(PIL.Image.new("RGBA", layer.size, "white"), layer)
    return to_8_bit(photo).convert("RGB")


def to_8_bit(image):
    """Scale a 16-bit photo (PIL, numpy or torch) to 8 bits, 65535 becoming 255, and a mask of bools to 0 and 255."""
    if isinstance(image, PIL.Image.Image):
        if not image.mode.startswith("I"):
            return image
        return PIL.Image.fromarray(to_8_bit(np.array(image).clip(0, 65535).astype(np.uint16)))
    if isinstance(image, torch.Tensor) and image.dtype in (torch.uint16, torch.bool):
        return torch.from_numpy(to_8_bit(image.cpu().numpy()))
    if isinstance(image, np.ndarray) and image.dtype == np.uint16:
        return np.round(image / 257).astype(np.uint8)
    if isinstance(image, np.ndarray) and image.dtype == bool:
        return image.astype(np.uint8) * 255
    return image
