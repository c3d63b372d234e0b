"""Data sets made for tests."""

import numpy as np
from PIL import Image

SIZE = (12, 9)


def write_set(folder, classes, masks, split="train"):
    """A data set of random photos with the given masks."""
    for part in ("images", "masks", "splits"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "classes.txt").write_text("\n".join(f"{i}: {name}" for i, name in classes.items()))
    rng = np.random.default_rng(0)
    for index, mask in enumerate(masks):
        photo = rng.integers(0, 256, (*mask.shape[:2], 3), dtype=np.uint8)
        Image.fromarray(photo).save(folder / "images" / f"p{index}.jpg")
        Image.fromarray(mask).save(folder / "masks" / f"p{index}.png")
    (folder / "splits" / f"{split}.txt").write_text("\n".join(f"p{i}" for i in range(len(masks))))
    return folder


def stripes(*ids, size=SIZE, dtype=np.uint8):
    """A mask with one vertical stripe per id."""
    columns = np.arange(size[0]) * len(ids) // size[0]
    return np.broadcast_to(np.array(ids, dtype=dtype)[columns], size[::-1]).copy()
