from __future__ import annotations

from pathlib import Path

import wordnet
from teacher import Teacher, TextSpace
from vocabulary import check_held_out, texts_of

from transformers_pat.data import read_classes


def data_names(data: Path) -> list[str]:
    """The class names of all data sets in `data`."""
    names = {name for path in data.glob("*/classes.txt") for name in read_classes(path).values()}
    return sorted(names - {"background"})


def listed_names(folder: Path) -> list[str]:
    """The class names (and their variants) of the benchmark lists in `folder`."""
    lines = [line for path in sorted(folder.glob("*.tsv")) for line in path.read_text().splitlines()[1:]]
    return sorted({name.strip() for line in lines for name in line.split("\t")[1].split(";") if name.strip()})


def fit_space(data: Path, class_names: Path, wordnet_folder: Path, work: Path) -> TextSpace:
    """The text space, fitted to all class names and to WordNet's everyday nouns (those seen in tagged text)."""
    names = data_names(data)
    check_held_out(names)
    texts = {text for name in names for text in texts_of(name)} | set(listed_names(class_names))
    lemmas = wordnet.read_lemmas(wordnet_folder).items()
    texts |= {lemma for lemma, (_, tagged) in lemmas if tagged and lemma[0].isalpha() and len(lemma.split()) <= 3}
    space = TextSpace.fit(Teacher()(sorted(texts)))
    space.save(work / "text_space.pt")
    return space
