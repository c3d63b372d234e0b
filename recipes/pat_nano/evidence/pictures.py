"""Pictures of tokens: photos rebuilt level by level, and the patches that a code stands for."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from transformers_pat.reconstruction import reconstruct, to_image
from transformers_pat.visualization import contact_sheet, reconstruction_sheet

PHOTOS = Path(__file__).parents[3] / "examples" / "photos"
CODES_SHOWN, PATCHES_SHOWN, PATCH_SIDE = 6, 12, 64


def draw(model, processor, folder: Path) -> None:
    """Writes levels_*.jpg and codes.jpg, from the photos that come with the repository."""
    photos = {path.stem: Image.open(path).convert("RGB") for path in sorted(PHOTOS.glob("*.jpg"))}
    for name, photo in photos.items():
        original, levels = reconstruct(model, processor, photo)
        captions = [
            f"{level.num_levels} level{'s' * (level.num_levels > 1)}, {level.bits_per_pixel:.3f} bits per pixel"
            for level in levels
        ]
        sheet = reconstruction_sheet(original, [level.image for level in levels], captions)
        sheet.save(folder / f"levels_{name}.jpg", quality=85)
    contact_sheet(code_rows(model, processor, list(photos.values()))).save(folder / "codes.jpg", quality=85)


@torch.no_grad()
def code_rows(model, processor, photos: list[Image.Image]) -> list[tuple[str, list[Image.Image]]]:
    """For every level a row of patches for each of the codes that occur most, each patch with its surroundings."""
    pictures, codes = [], []
    for photo in photos:
        pixel_values = processor(images=[photo], return_tensors="pt").pixel_values
        pictures.append(to_image(pixel_values[0], processor))
        codes.append([level[0].numpy() for level in model.encode(pixel_values).codes])
    rows = []
    for level, stride in enumerate(model.config.level_strides):
        side = round(stride * model.config.vision_config.patch_size)
        counts = np.bincount(np.concatenate([levels[level].ravel() for levels in codes]))
        for code in np.argsort(-counts, kind="stable")[:CODES_SHOWN]:
            patches = [
                _patch(picture, row, column, side)
                for picture, levels in zip(pictures, codes, strict=True)
                for row, column in np.argwhere(levels[level] == code)
            ]
            chosen = np.linspace(0, len(patches) - 1, min(PATCHES_SHOWN, len(patches))).round().astype(int)
            caption = f"level {level + 1}, code {code}: {len(patches)} of {side} by {side} pixels"
            rows.append((caption, [patches[index] for index in chosen]))
    return rows


def _patch(picture: Image.Image, row: int, column: int, side: int) -> Image.Image:
    """The cell in the middle of three by three, so that one sees where it is from."""
    box = ((column - 1) * side, (row - 1) * side, (column + 2) * side, (row + 2) * side)
    return picture.crop(box).resize((PATCH_SIDE, PATCH_SIDE), Image.Resampling.BICUBIC)
