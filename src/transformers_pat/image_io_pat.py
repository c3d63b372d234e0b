"""
Reading photos: orientation, 16 bits, palettes, CMYK and transparency, the same wherever a photo is used.

Needs torch and transformers only where tensors or URLs are given, so that `transformers_pat.onnx` runs without them.
"""

import os

import numpy as np
import PIL.Image
import PIL.ImageOps

MOST_PIXELS = 178_956_970  # where Pillow refuses a photo as a decompression bomb
MOST_PIXELS_ENLARGED = 4096 * 4096  # by a damaged or hostile checkpoint; our choice


def load_photo(source, timeout: float | None = None) -> PIL.Image.Image:
    """
    Read a photo and turn it upright as its EXIF orientation says; its mode is kept, see [`to_rgb`].

    Args:
        source: Path, URL, base64 string, binary file or PIL image; or pixels, integers: a numpy array (H, W) or
            (H, W, channels), or a torch tensor (channels, H, W).
        timeout: Seconds to wait for a URL.

    Raises:
        ValueError: If it cannot be read (missing, empty, truncated, no image); one line that names the picture.
    """
    if hasattr(source, "__array__") and not isinstance(source, PIL.Image.Image):
        return _from_array(source)
    is_file = hasattr(source, "read")
    if not is_file and not isinstance(source, (str, os.PathLike, PIL.Image.Image)):
        raise ValueError(f"a photo must be a PIL image, an array, a path or a URL, got {type(source).__name__}")
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
            from transformers.image_utils import load_image

            photo = load_image(source, timeout=timeout)
        photo.load()
        return PIL.ImageOps.exif_transpose(photo)
    except Exception as error:  # a damaged file makes Pillow raise nearly anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"cannot read the image {str(name)[:200]}: {reason[:200]}") from error


def _from_array(source) -> PIL.Image.Image:
    pixels = to_8_bit(np.asarray(source.cpu() if hasattr(source, "cpu") else source))
    if hasattr(source, "cpu") and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    in_range = pixels.dtype.kind in "iu" and pixels.size and 0 <= pixels.min() <= pixels.max() <= 255
    if pixels.ndim not in (2, 3) or channels not in (1, 3, 4) or not in_range:
        raise ValueError(
            "an array must be (H, W) or (H, W, 3), a tensor (3, H, W), of integers from 0 to 255, got "
            f"{source.dtype} {tuple(source.shape)}"
        )
    return PIL.Image.fromarray(pixels.astype(np.uint8))


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
    if str(getattr(image, "dtype", "")) in ("torch.uint16", "torch.bool"):
        import torch

        return torch.from_numpy(to_8_bit(image.cpu().numpy()))
    if isinstance(image, np.ndarray) and image.dtype == np.uint16:
        return np.round(image / 257).astype(np.uint8)
    if isinstance(image, np.ndarray) and image.dtype == bool:
        return image.astype(np.uint8) * 255
    return image


def target_size(height: int, width: int, size: dict[str, int], size_divisor: int) -> tuple[int, int]:
    """
    The `(height, width)` that a photo is resized to.

    `size` with `height` and `width` is taken as it is. With `shortest_edge` and/or `longest_edge` the aspect is kept:
    the short side becomes `shortest_edge` unless that would take the long side beyond `longest_edge`; then each side
    is rounded to the nearest multiple of `size_divisor`, at least one multiple, and not beyond `longest_edge`.
    Raises `ValueError` for other kinds of size, numbers below 1, pictures larger than Pillow opens, and pictures
    enlarged beyond 4096 × 4096 pixels.
    """
    if size_divisor < 1 or min(size.values(), default=1) < 1:
        raise ValueError(f"size and size_divisor must be positive, got {size} and {size_divisor}")
    most = max(MOST_PIXELS_ENLARGED, min(height * width, MOST_PIXELS))
    height, width = _scaled(height, width, size, size_divisor)
    if height * width > most:
        raise ValueError(f"size {size} would make a picture of {height}x{width} pixels; {most} is the most")
    return height, width


def _scaled(height: int, width: int, size: dict[str, int], size_divisor: int) -> tuple[int, int]:
    if size.get("height") and size.get("width"):
        return size["height"], size["width"]
    if not size.get("shortest_edge") and not size.get("longest_edge"):
        raise ValueError(f"size must have height and width, or shortest_edge and/or longest_edge, got {size}")
    scales = []
    if size.get("shortest_edge"):
        scales.append(size["shortest_edge"] / min(height, width))
    if size.get("longest_edge"):
        scales.append(size["longest_edge"] / max(height, width))
    scale = min(scales)
    multiples = [max(1, int(side * scale / size_divisor + 0.5)) for side in (height, width)]
    if size.get("longest_edge"):
        multiples = [min(count, max(1, size["longest_edge"] // size_divisor)) for count in multiples]
    return multiples[0] * size_divisor, multiples[1] * size_divisor


def size_for_windows(height: int, width: int, size: dict[str, int], size_divisor: int) -> dict[str, int]:
    """A `size` for [`target_size`] that enlarges a photo as the given one would, but does not make it smaller."""
    short, long = sorted((height, width))
    if "height" in size:
        shortest, longest = sorted((size["height"], size["width"]))
    else:
        shortest, longest = size.get("shortest_edge", 0), size.get("longest_edge", 0)
    enlarged = max(short, shortest)
    # Without a longest edge nothing limits the long side.
    longest = longest or -(-long * enlarged // short)
    return {"shortest_edge": enlarged, "longest_edge": max(-(-long // size_divisor) * size_divisor, longest)}


def window_starts(length: int, window_size: int, stride: int) -> list[int]:
    """Where windows begin along one side; the last one ends at the border."""
    if length <= window_size:
        return [0]
    return [*range(0, length - window_size, stride), length - window_size]
