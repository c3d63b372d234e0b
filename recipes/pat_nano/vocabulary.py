"""Other words for the class names, used as label texts in training.

`tests/synonyms.json` holds words for the same classes that training never sees; `check_held_out` keeps it so.
"""

from __future__ import annotations

import json
from pathlib import Path

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
