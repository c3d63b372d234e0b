"""Seeing codes: what each level's codes look like, which words they are nearest to, and where they occur."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from ..modeling_pat import PatModel
from ..processing_pat import PatProcessor
from ..reconstruction import to_image
from .pictures import show_photo
from .shards import TokenizedPhoto
from .tables import CodeTables
from .tokenizing import ReadPhoto, encode_photos

PATCH_SIDE = 64


@torch.inference_mode()
def tokenize_one(
    photo: Image.Image | TokenizedPhoto, model: PatModel, processor: PatProcessor
) -> tuple[TokenizedPhoto, Image.Image]:
    """A photo's codes, and what it looks like at the model's size."""
    if isinstance(photo, TokenizedPhoto):
        return photo, show_photo(photo, model, processor)
    pixel_values = processor(images=[photo], return_tensors="pt")["pixel_values"][0]
    (stored,) = encode_photos(model, [ReadPhoto("", b"", photo.size, pixel_values)])
    return stored, to_image(pixel_values, processor)


@dataclass
class Code:
    """
    One code of a level.

    Args:
        index: Its index in the codebook.
        share: Its share of the level's cells in the photos, 0 to 1.
        words: The words nearest to it, nearest first.
        patches: Cells that have it, each with its surroundings, 64 by 64 pixels.
    """

    index: int
    share: float
    words: list[str]
    patches: list[Image.Image]


def frequent_codes(
    level: int,
    photos: Sequence[TokenizedPhoto],
    pictures: Sequence[Image.Image],
    tables: CodeTables,
    text_embeds: torch.Tensor,
    words: Sequence[str],
    count: int = 12,
    patches: int = 12,
) -> list[Code]:
    """
    The codes of a level that occur most.

    Args:
        level: The level, 0 being the coarsest.
        photos: Photos of one checkpoint.
        pictures: What they look like, of any size.
        tables: Fitted to the photos.
        text_embeds: (num_words, projection_dim) of the words.
        words: Words to compare with, see [`nearest_words`].
        count: How many codes.
        patches: How many cells of each.
    """
    cells = np.concatenate([photo.codes[level].ravel() for photo in photos])
    counts = np.bincount(cells, minlength=len(tables.embeds[level]))
    nearest = nearest_words(level, tables, text_embeds, words)
    frequent = np.argsort(-counts, kind="stable")[:count]
    return [
        Code(
            int(code),
            counts[code] / len(cells),
            nearest[code],
            _patches(int(code), level, photos, pictures, patches),
        )
        for code in frequent
        if counts[code]
    ]


def nearest_words(level: int, tables: CodeTables, text_embeds: torch.Tensor, words: Sequence[str]) -> list[list[str]]:
    """For each code of a level, the two words whose similarity it raises most."""
    raised = tables.scores(text_embeds)[0][level]
    return [[words[word] for word in row] for row in raised.argsort(dim=1, descending=True)[:, :2].tolist()]


def code_map(codes: np.ndarray, shown: Sequence[Code], size: tuple[int, int]) -> np.ndarray:
    """
    Where the shown codes are, (height, width) indices into them; len(shown) for all others.

    Args:
        codes: (rows, columns) of a level.
        shown: The codes.
        size: Height and width of the map.
    """
    index_of = {code.index: number for number, code in enumerate(shown)}
    indices = np.vectorize(lambda code: index_of.get(int(code), len(shown)), otypes=[np.int64])(codes)
    return spread(indices, size)


def spread(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A value per cell, (rows, columns), as a value per pixel, (height, width)."""
    rows, columns = (np.arange(side) * count // side for side, count in zip(size, cells.shape, strict=True))
    return cells[np.ix_(rows, columns)]


def most_of(codes: Sequence[Code], level: int, photos: Sequence[TokenizedPhoto], count: int = 4) -> list[int]:
    """Indices of the photos that have most cells of these codes."""
    indices = [code.index for code in codes]
    shares = [np.isin(photo.codes[level], indices).mean() for photo in photos]
    return np.argsort(-np.array(shares), kind="stable")[:count].tolist()


def _patches(
    code: int, level: int, photos: Sequence[TokenizedPhoto], pictures: Sequence[Image.Image], count: int
) -> list[Image.Image]:
    """Cells of a code, spread over all places that have it, each with those around it."""
    places = [
        (number, row, column)
        for number, photo in enumerate(photos)
        for row, column in np.argwhere(photo.codes[level] == code).tolist()
    ]
    chosen = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
    spread = [places[index] for index in chosen]
    return [_patch(pictures[number], photos[number].codes[level].shape, row, column) for number, row, column in spread]


def _patch(picture: Image.Image, grid: tuple[int, ...], row: int, column: int) -> Image.Image:
    height, width = picture.height / grid[0], picture.width / grid[1]
    across, down = min(3 * width, picture.width), min(3 * height, picture.height)
    left = min(max((column - 1) * width, 0), picture.width - across)
    top = min(max((row - 1) * height, 0), picture.height - down)
    box = (left, top, left + across, top + down)
    return picture.resize((PATCH_SIDE, PATCH_SIDE), Image.Resampling.BICUBIC, box)
