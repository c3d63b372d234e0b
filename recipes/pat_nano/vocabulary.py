"""Other words for the class names, used as label texts in training.

`tests/synonyms.json` holds words for the same classes that training never sees; `check_held_out` keeps it so.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from transformers_pat import PatForSemanticSegmentation, PatProcessor

SYNONYMS: dict[str, list[str]] = json.loads((Path(__file__).parent / "synonyms.json").read_text())
HELD_OUT = Path(__file__).resolve().parents[2] / "tests" / "synonyms.json"


def texts_of(name: str) -> list[str]:
    """The class name and its training synonyms."""
    return [name, *SYNONYMS.get(name, [])]


def check_held_out(names: list[str]) -> None:
    """`ValueError` when a held-out synonym is a label text of training."""
    training = {text for name in names for text in texts_of(name)}
    for words in json.loads(HELD_OUT.read_text()).values():
        leaked = sorted(word for name, word in words.items() if word != name and word in training)
        if leaked:
            raise ValueError(f"held-out synonyms used in training: {leaked}")


def load_text(clip_folder: Path) -> tuple[PatForSemanticSegmentation, PatProcessor]:
    """The text tower of a CLIP folder, ready to be asked for words."""
    model = PatForSemanticSegmentation.from_clip_pretrained(str(clip_folder))
    return model, PatProcessor.from_clip_pretrained(str(clip_folder))


class Names:
    """Text embeddings of one data set's class names and their training synonyms."""

    def __init__(self, names: list[str], model: PatForSemanticSegmentation, processor: PatProcessor):
        self.choices = [model.get_text_embeds(texts_of(name), processor, "simple") for name in names]
        self.plain = torch.stack([rows[0] for rows in self.choices])

    def draw(self, rng: np.random.Generator) -> torch.Tensor:
        """(classes, dim): for every class its name or, half the time, one of its synonyms."""
        rows = [c[rng.integers(len(c))] if rng.random() < 0.5 else c[0] for c in self.choices]
        return torch.stack(rows)
