"""Other words for the class names, used as label texts in training.

`held_out_synonyms.json` holds words for the same classes that training never sees; `check_held_out` keeps it so.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import AutoTokenizer, CLIPTextModelWithProjection

from transformers_pat.prompts_pat import resolve_templates

SYNONYMS: dict[str, list[str]] = json.loads((Path(__file__).parent / "synonyms.json").read_text())
TEMPLATES = resolve_templates("simple")
HELD_OUT = Path(__file__).with_name("held_out_synonyms.json")


def texts_of(name: str) -> list[str]:
    """The class name and its training synonyms."""
    return [name, *SYNONYMS.get(name, [])]


def held_out_words() -> set[str]:
    """The held-out synonyms that are not themselves class names."""
    words = json.loads(HELD_OUT.read_text())
    return {word for of_set in words.values() for name, word in of_set.items() if word != name}


def check_held_out(names: list[str]) -> None:
    """`ValueError` when a held-out synonym is a label text of training."""
    training = {text for name in names for text in texts_of(name)}
    for words in json.loads(HELD_OUT.read_text()).values():
        leaked = sorted(word for name, word in words.items() if word != name and word in training)
        if leaked:
            raise ValueError(f"held-out synonyms used in training: {leaked}")


class TextTower:
    """Words to unit-length embeddings, by a trained text tower: a folder of one, or of a whole CLIP."""

    def __init__(self, folder: Path):
        self.model = CLIPTextModelWithProjection.from_pretrained(folder, attn_implementation="eager").eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def __call__(self, words: list[str]) -> torch.Tensor:
        """(words, dim), each the mean over the prompt templates that PAT is trained with."""
        prompts = [template.format(word) for word in words for template in TEMPLATES]
        embeds = self.model(**self.tokenizer(prompts, padding=True, return_tensors="pt")).text_embeds
        return normalize(normalize(embeds, dim=-1).view(len(words), len(TEMPLATES), -1).mean(1), dim=-1)


class Names:
    """Text embeddings of one data set's class names and their training synonyms."""

    def __init__(self, names: list[str], text_tower: TextTower):
        self.choices = [text_tower(texts_of(name)) for name in names]
        self.plain = torch.stack([rows[0] for rows in self.choices])

    def draw(self, rng: np.random.Generator) -> torch.Tensor:
        """(classes, dim): for every class its name or, half the time, one of its synonyms."""
        rows = [c[rng.integers(len(c))] if rng.random() < 0.5 else c[0] for c in self.choices]
        return torch.stack(rows)
