"""The words and sentences that the text tower learns from, and the point of the text space each should map to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
import wordnet
from teacher import Teacher, TextSpace
from torch.nn.functional import normalize
from vocabulary import check_held_out, texts_of

from transformers_pat.data import read_classes

TEMPLATES = ["a photo of a {}.", "a photo of the {}.", "a photo of {}.", "a picture of a {}", "the {}", "a {}", "{}."]
MEANING = 0.5  # share of a WordNet noun's target that comes from its synonyms and gloss


class Corpus(NamedTuple):
    """Texts with their targets (len(texts), 256). `words` go into templates too, `classes` are drawn more often."""

    texts: list[str]
    targets: torch.Tensor
    classes: int
    words: int


def data_names(data: Path) -> list[str]:
    """The class names of all data sets in `data`."""
    names = {name for path in data.glob("*/classes.txt") for name in read_classes(path).values()}
    return sorted(names - {"background"})


def listed_names(folder: Path) -> list[str]:
    """The class names (and their variants) of the benchmark lists in `folder`."""
    lines = [line for path in sorted(folder.glob("*.tsv")) for line in path.read_text().splitlines()[1:]]
    return sorted({name.strip() for line in lines for name in line.split("\t")[1].split(";") if name.strip()})


def class_texts(data: Path, class_names: Path) -> list[str]:
    """Class names of the data sets with their training synonyms, then those of the benchmark lists."""
    names = data_names(data)
    check_held_out(names)
    return list(dict.fromkeys([text for name in names for text in texts_of(name)] + listed_names(class_names)))


def nouns(folder: Path) -> dict[str, tuple[str, int]]:
    """WordNet's nouns of one to three words that start with a letter."""
    lemmas = wordnet.read_lemmas(folder).items()
    return {lemma: sense for lemma, sense in lemmas if lemma[0].isalpha() and len(lemma.split()) <= 3}


def fit_space(data: Path, class_names: Path, wordnet_folder: Path) -> TextSpace:
    """The text space, fitted to all class names and to WordNet's everyday nouns (those seen in tagged text)."""
    everyday = [lemma for lemma, (_, tagged) in nouns(wordnet_folder).items() if tagged]
    return TextSpace.fit(Teacher()(sorted({*class_texts(data, class_names), *everyday})))


def build(data: Path, class_names: Path, wordnet_folder: Path, space: TextSpace) -> Corpus:
    """All texts. A class name keeps the teacher's own embedding, which is what the vision tower is trained on.

    Any other noun is moved half way to what WordNet says it means (the other words and the gloss of its first
    sense): sentence embeddings know few of the rarer synonyms ("settee", "feline") as well as their glosses do.
    """
    teacher = Teacher()
    classes = class_texts(data, class_names)
    synsets, lemmas = wordnet.read_synsets(wordnet_folder), nouns(wordnet_folder)
    used = sorted({offset for offset, _ in lemmas.values()})
    words = list(dict.fromkeys([w for offset in used for w in synsets[offset].lemmas] + list(lemmas)))
    glosses = [synsets[offset].gloss for offset in used]
    captions = sorted({c for many in json.loads((data / "coco_subset/captions.json").read_text()).values() for c in many})
    embedded = space(teacher(classes + words + glosses + captions))
    of_classes, of_words, of_glosses, of_captions = embedded.split([len(classes), len(words), len(glosses), len(captions)])
    row = {word: i for i, word in enumerate(words)}
    gloss_row = {offset: i for i, offset in enumerate(used)}
    meant, fresh = [], [lemma for lemma in lemmas if lemma not in set(classes)]
    for lemma in fresh:
        offset = lemmas[lemma][0]
        others = [of_words[row[word]] for word in synsets[offset].lemmas if word != lemma]
        meant.append(normalize(torch.stack([*others, of_glosses[gloss_row[offset]]]).mean(0), dim=0))
    own = of_words[[row[lemma] for lemma in fresh]]
    blended = normalize((1 - MEANING) * own + MEANING * torch.stack(meant), dim=-1)
    texts = classes + fresh + glosses + captions
    targets = torch.cat([of_classes, blended, of_glosses, of_captions])
    return Corpus(texts, targets, len(classes), len(classes) + len(fresh))
