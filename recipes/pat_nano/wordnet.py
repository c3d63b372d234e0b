"""WordNet's nouns, read from its own files (Debian: `apt-get install wordnet-base`)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Synset(NamedTuple):
    lemmas: list[str]
    gloss: str
    topic: str  # the number of WordNet's lexicographer file: "06" artefacts, "05" animals, ...
    relatives: list[str]  # offsets of the synsets one step up and one step down


def read_synsets(folder: Path) -> dict[str, Synset]:
    """{offset: Synset} of every noun."""
    path = folder / "data.noun"
    if not path.is_file():
        raise ValueError(f"no WordNet at {str(folder)!r} (apt-get install wordnet-base, or give its folder)")
    synsets = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the licence
            continue
        fields, _, gloss = line.partition(" | ")
        parts = fields.split()
        count = int(parts[3], 16)
        lemmas = [word.replace("_", " ").lower() for word in parts[4 : 4 + 2 * count : 2]]
        pointers = parts[5 + 2 * count :]
        relatives = [offset for kind, offset in zip(pointers[::4], pointers[1::4], strict=False) if kind in "@~"]
        synsets[parts[0]] = Synset(lemmas, gloss.split(";")[0].strip(), parts[1], relatives)
    return synsets


def read_lemmas(folder: Path) -> dict[str, tuple[list[str], int]]:
    """{lemma: (offsets of its senses, how many of them occur in tagged text)} of every noun."""
    lemmas = {}
    for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):
            continue
        parts = line.split()
        senses, pointers = int(parts[2]), int(parts[3])
        lemmas[parts[0].replace("_", " ")] = (parts[-senses:], int(parts[5 + pointers]))
    return lemmas


def read_adjectives(folder: Path) -> list[str]:
    """Adjectives of one word that occur in tagged text."""
    found = []
    for line in (folder / "index.adj").read_text(encoding="utf-8").splitlines():
        parts = line.split()
        if not line.startswith(" ") and parts[0].isalpha() and int(parts[5 + int(parts[3])]) > 0:
            found.append(parts[0])
    return found
