"""Colours of labels: far apart also for colour-blind eyes, and where possible the same for the same word."""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

import numpy as np

# Okabe and Ito's colours for colour-blind readers, without black; further ones are found by `palette`.
FIRST_COLORS = (
    (86, 180, 233), (230, 159, 0), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
# How protanopes, deuteranopes and tritanopes see linear RGB: Machado et al. 2009, severity 1.
COLOR_BLINDNESS = (
    ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
)
# Words choose among this many colours. Two nearer than this (Oklab) are too alike for one picture. Our choice.
WORD_COLORS = 24
ALIKE = 0.09
# First choice of some words, a position in the palette: people expect a blue sky.
EXPECTED = {"sky": 0, "tree": 2, "plant": 2, "grass": 11, "water": 4, "sea": 4, "lake": 4, "building": 5, "sand": 20}


@lru_cache(maxsize=8)
def palette(num_labels: int) -> np.ndarray:
    """
    A fixed palette: colour `i` is the same whatever the number of labels.

    Each colour after the first is the farthest from all before it, for the eyes, normal or colour-blind, for which it
    is nearest (distance in Oklab). About 2000 colours are distinct; after that they repeat.

    Returns:
        (num_labels, 3) uint8.

    Raises:
        ValueError: If `num_labels` is below 1.
    """
    if num_labels < 1:
        raise ValueError(f"A palette needs at least one label, got {num_labels}.")
    steps = np.linspace(0, 255, 16)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _as_seen(candidates)[0]
    # Neither nearly black nor nearly white, and not grey.
    usable = (lab[:, 0] > 0.42) & (lab[:, 0] < 0.95) & (np.linalg.norm(lab[:, 1:], axis=1) > 0.07)
    candidates = candidates[usable]
    seen = _as_seen(candidates)
    colors = [np.array(color, dtype=float) for color in FIRST_COLORS]
    distances = np.min([_distances(seen, color) for color in colors], axis=0)
    while len(colors) < min(num_labels, len(candidates)):
        farthest = int(distances.argmax())
        colors.append(candidates[farthest])
        distances = np.minimum(distances, _distances(seen, candidates[farthest]))
    return np.array([colors[index % len(colors)] for index in range(num_labels)]).round().astype(np.uint8)


def label_colors(labels: Sequence[str]) -> np.ndarray:
    """
    A colour per label: the one that its word always has, or the next of its word if an earlier label is like it.

    Args:
        labels: Names; from the 25th on they get the next colours of [`palette`].

    Returns:
        (num_labels, 3) uint8.
    """
    colors = palette(max(WORD_COLORS, len(labels)))
    alike = _alike()
    chosen: list[int] = []
    for label in labels[:WORD_COLORS]:
        word = label.strip().lower()
        order = np.random.default_rng(list(sha256(word.encode()).digest())).permutation(WORD_COLORS).tolist()
        free = [index for index in [EXPECTED.get(word, order[0]), *order] if index not in chosen]
        chosen.append(next((index for index in free if not alike[index, chosen].any()), free[0]))
    return colors[[*chosen, *range(len(chosen), len(labels))]]


@lru_cache(maxsize=1)
def _alike() -> np.ndarray:
    """Which of the words' colours are too alike for one picture: (WORD_COLORS, WORD_COLORS) bool."""
    colors = palette(WORD_COLORS).astype(float)
    seen = _as_seen(colors)
    return np.stack([_distances(seen, color) for color in colors]) < ALIKE


def _distances(seen: np.ndarray, color: np.ndarray) -> np.ndarray:
    """Distance of one sRGB colour to colours from [`_as_seen`], least over the eyes: (num_colors,)."""
    return np.linalg.norm(seen - _as_seen(color)[:, None], axis=-1).min(axis=0)


def _as_seen(rgb: np.ndarray) -> np.ndarray:
    """Convert sRGB (..., 3), 0 to 255, to what normal and three kinds of colour-blind eyes see, (4, ..., 3) Oklab."""
    values = np.asarray(rgb) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.stack([linear, *(np.clip(linear @ np.transpose(eyes), 0, 1) for eyes in COLOR_BLINDNESS)])
    to_cones = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    to_lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.cbrt(seen @ np.transpose(to_cones)) @ np.transpose(to_lab)
