"""What a photo of an archive looks like: the photo itself where it still is, else what its codes decode to."""

import hashlib
import io

import torch
from PIL import Image

from ..image_io_pat import load_photo, to_rgb
from ..modeling_pat import PatModel
from ..processing_pat import PatProcessor
from ..reconstruction import to_image
from .shards import TokenizedPhoto
from .sources import read_file


def find_photo(photo: TokenizedPhoto) -> Image.Image | None:
    """The upright RGB photo, if it still is where it was and is the one that was tokenised."""
    try:
        content = read_file(photo.source)
        if hashlib.sha256(content).digest() == photo.sha256:
            return to_rgb(load_photo(io.BytesIO(content)))
    except (OSError, ValueError):
        pass
    return None


@torch.inference_mode()
def show_photo(photo: TokenizedPhoto, model: PatModel, processor: PatProcessor) -> Image.Image:
    """The photo at its own size, or what its codes decode to at the model's size."""
    if (found := find_photo(photo)) is not None:
        return found
    pixels = model.decode(photo.to_tensors(), output_size=photo.pixels)
    return to_image(pixels[0], processor)
