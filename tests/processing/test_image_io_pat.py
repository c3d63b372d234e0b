"""One reader of photos: inference, training and evaluation see the same pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_pat import PatImageProcessorPil
from transformers_pat.data.base import BadSampleError, read_photo
from transformers_pat.image_io_pat import load_photo

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)


def upside_down():
    photo = Image.fromarray(PHOTO)
    exif = photo.getexif()
    exif[0x0112] = 6  # a quarter turn
    return photo, {"format": "JPEG", "exif": exif}


def sixteen_bits():
    return Image.fromarray(RNG.integers(0, 65536, (24, 32), dtype=np.uint16)), {"format": "PNG"}


def cmyk():
    return Image.fromarray(PHOTO).convert("CMYK"), {"format": "TIFF"}


def transparent_palette():
    return Image.fromarray(PHOTO).quantize(16), {"format": "PNG", "transparency": 3}


def alpha():
    layers = np.dstack([PHOTO, RNG.integers(0, 256, (24, 32), dtype=np.uint8)])
    return Image.fromarray(layers, "RGBA"), {"format": "PNG"}


def grey_and_alpha():
    return Image.fromarray(RNG.integers(0, 256, (24, 32, 2), dtype=np.uint8), "LA"), {"format": "PNG"}


@pytest.mark.parametrize("make", [upside_down, sixteen_bits, cmyk, transparent_palette, alpha, grey_and_alpha])
def test_training_and_inference_see_the_same_pixels(tmp_path, make):
    photo, options = make()
    path = tmp_path / "photo"
    photo.save(path, **options)
    trained = np.asarray(read_photo(io.BytesIO(path.read_bytes()), "photo"))
    unchanged = {"do_resize": False, "do_rescale": False, "do_normalize": False, "do_pad": False}
    (seen,) = PatImageProcessorPil()([str(path)], **unchanged)["pixel_values"]
    assert trained.shape[2] == 3 and len(np.unique(trained)) > 8
    assert np.array_equal(trained, np.asarray(seen).transpose(1, 2, 0))
    assert trained.shape[:2] == ((32, 24) if make is upside_down else (24, 32))


@pytest.mark.parametrize("content", [b"", b"no photo", b"\x89PNG\r\n\x1a\n" + bytes(40)])
def test_a_file_that_is_no_photo_is_named(content):
    with pytest.raises(BadSampleError, match=r"beach\.png"):
        read_photo(io.BytesIO(content), "beach.png")


@pytest.mark.parametrize("container", [np.asarray, torch.as_tensor])
def test_an_array_of_bools_is_black_and_white(container):
    pixels = np.kron(np.eye(2, dtype=bool), np.ones((16, 16), dtype=bool))[None].repeat(3, axis=0)
    as_bytes = pixels.astype(np.uint8) * 255
    processor = PatImageProcessorPil(do_resize=False)
    expected, found = (processor([container(one)], return_tensors="pt")["pixel_values"] for one in (as_bytes, pixels))
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "pixels",
    [
        PHOTO,
        PHOTO.astype(np.int64),
        PHOTO[::-1, ::-1][::-1, ::-1],
        torch.from_numpy(PHOTO).permute(2, 0, 1),
        PHOTO.astype(np.uint16) * 257,
    ],
)
def test_pixels_are_taken_as_a_photo(pixels):
    assert (np.asarray(load_photo(pixels)) == PHOTO).all()


@pytest.mark.parametrize("pixels", [PHOTO[..., 0], PHOTO[..., :1], torch.from_numpy(PHOTO[None, ..., 0].copy())])
def test_grey_pixels_are_taken_as_a_photo(pixels):
    assert load_photo(pixels).mode == "L"


@pytest.mark.parametrize(
    "pixels",
    [
        PHOTO / 255,
        PHOTO.astype(np.int64) - 1,
        PHOTO[:0],
        PHOTO[None],
        PHOTO[..., :2],
        PHOTO.astype("U3"),
        torch.from_numpy(PHOTO),
        np.float32(3),
    ],
)
def test_other_arrays_are_refused(pixels):
    with pytest.raises(ValueError, match="an array must be"):
        load_photo(pixels)
