"""The words and sentences that the text tower learns from, and the point of the text space each should map to."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import NamedTuple

import torch
import wordnet
from teacher import Teacher, TextSpace
from torch.nn.functional import normalize
from vocabulary import TextTower, check_held_out, held_out_words, texts_of

from transformers_pat.data.base import read_classes

TEMPLATES = ["a photo of a {}.", "a photo of the {}.", "a photo of {}.", "a picture of a {}", "the {}", "a {}", "{}."]
THINGS = {"05", "08", "13", "17", "18", "19", "20", "27"}  # WordNet's topics of what a photo can show
PHRASES = 20_000
# How far a word is pulled towards the known names nearest to it: by up to SHARE, from a cosine of FAR to one of CLOSE.
SHARE, FAR, CLOSE = 0.9, 0.1, 0.3
NEAR = 0.8  # the cosine above which the result counts as next to a name
SHARPNESS = 0.03  # the smaller, the more the single nearest name counts


class Corpus(NamedTuple):
    """Texts with their targets (len(texts), 256).

    The first `classes` are class names, up to `near` nouns that the pull puts next to one, up to `words` other nouns;
    the rest are sentences and phrases.
    """

    texts: list[str]
    targets: torch.Tensor
    classes: int
    near: int
    words: int


def data_names(data: Path) -> list[str]:
    """The class names of all data sets in `data`."""
    names = {name for path in data.glob("*/classes.txt") for name in read_classes(path).values()}
    return sorted(names - {"background"})


def listed_names(folder: Path) -> list[str]:
    """The class names (and their variants) of the benchmark lists in `folder`."""
    lines = [line for path in sorted(folder.glob("*.tsv")) for line in path.read_text().splitlines()[1:]]
    return sorted({name.strip() for line in lines for name in line.split("\t")[1].split(";") if name.strip()})


def imagenet_names(data: Path) -> list[str]:
    """The category names of the ImageNet photos in `data`, in lower case, without the held-out synonyms."""
    files = sorted(data.glob("imagenet_*/labels.json"))
    names = {name.lower() for path in files for name in json.loads(path.read_text(encoding="utf-8")).values()}
    return sorted(names - held_out_words())


def class_texts(data: Path, class_names: Path) -> list[str]:
    """Class names of the data sets with their training synonyms, of the benchmark lists, and of ImageNet."""
    names = data_names(data)
    check_held_out(names)
    others = listed_names(class_names) + imagenet_names(data)
    return list(dict.fromkeys([text for name in names for text in texts_of(name)] + others))


def nouns(folder: Path) -> dict[str, list[str]]:
    """{noun: offsets of its senses}: WordNet's everyday nouns (seen in tagged text, up to three words) and its
    words for things: artefacts of up to two words, animals, parts of the body, food, objects, plants ... of one."""
    synsets = wordnet.read_synsets(folder)
    found = {}
    for lemma, (senses, tagged) in wordnet.read_lemmas(folder).items():
        topic, words = synsets[senses[0]].topic, len(lemma.split())
        thing = (topic == "06" and words <= 2) or (topic in THINGS and words == 1)
        if lemma[0].isalpha() and ((tagged and words <= 3) or thing):
            found[lemma] = senses
    return found


def fit_space(data: Path, class_names: Path, wordnet_folder: Path) -> TextSpace:
    """The text space, fitted to all class names and to WordNet's everyday nouns (those seen in tagged text)."""
    lemmas = wordnet.read_lemmas(wordnet_folder).items()
    everyday = [w for w, (_, tagged) in lemmas if tagged and w[0].isalpha() and len(w.split()) <= 3]
    return TextSpace.fit(Teacher()(sorted({*class_texts(data, class_names), *everyday})))


def phrases(near: set[str], folder: Path, seed: int = 0) -> list[str]:
    """Random pairs of everyday words ("wooden gate", "street horse"), so that it learns to put words together; every
    other one ends in a relative of a class name."""
    rng = random.Random(seed)
    heads = [w for w, (_, tagged) in wordnet.read_lemmas(folder).items() if tagged > 1 and w.isalpha()]
    adjectives, related = wordnet.read_adjectives(folder), sorted(w for w in near if w.isalpha())
    pairs = [(rng.choice([adjectives, heads]), rng.choice([heads, related])) for _ in range(PHRASES)]
    return sorted({f"{rng.choice(first)} {rng.choice(last)}" for first, last in pairs})


def captions(data: Path) -> list[str]:
    """The captions of the training photos of coco_subset."""
    folder = data / "coco_subset"
    training = set((folder / "splits/train.txt").read_text().split())
    by_photo = json.loads((folder / "captions.json").read_text()).items()
    return sorted({caption for photo, many in by_photo if Path(photo).stem in training for caption in many})


def relatives(names: list[str], folder: Path) -> set[str]:
    """The synonyms of these names in WordNet and the nouns one step above and below them ("canine", "armchair")."""
    synsets, lemmas = wordnet.read_synsets(folder), wordnet.read_lemmas(folder)
    senses = {offset for name in names for offset in lemmas.get(name, ([], 0))[0][:2]}
    around = senses | {offset for sense in senses for offset in synsets[sense].relatives}
    return {lemma for offset in around for lemma in synsets[offset].lemmas}


def pull(targets: torch.Tensor, known: torch.Tensor, names: torch.Tensor) -> torch.Tensor:
    """Move unit-length `targets` (N, 256) towards the `names` (K, 256) of the nearest `known` words (K, 256).

    The vision tower learns to tell the known names apart and nothing else: a synonym a little off its name
    may lose to another class's name. A word that is far from all of them stays where it is.
    """
    cosines = targets @ known.T
    nearest = normalize((cosines / SHARPNESS).softmax(-1) @ names, dim=-1)
    share = SHARE * ((cosines.amax(-1, keepdim=True) - FAR) / (CLOSE - FAR)).clamp(0, 1)
    return normalize((1 - share) * targets + share * nearest, dim=-1)


def build(
    data: Path, class_names: Path, wordnet_folder: Path, space: TextSpace, start: TextTower | None = None
) -> Corpus:
    """All texts. The data sets' names and synonyms, which the vision tower is trained on, keep the teacher's own
    embedding, or that of the text tower to start from; others are pulled towards the nearest names."""
    teacher = Teacher()
    classes = class_texts(data, class_names)
    name_of = {text: name for name in data_names(data) for text in texts_of(name)}
    trained = list(name_of)
    lemmas, synsets = nouns(wordnet_folder), wordnet.read_synsets(wordnet_folder)
    fresh = [lemma for lemma in lemmas if lemma not in set(classes)]
    glosses = sorted({synsets[senses[0]].gloss for senses in lemmas.values()})
    pairs, sentences = phrases(relatives(classes, wordnet_folder), wordnet_folder), [*glosses, *captions(data)]
    of_classes, of_fresh, of_pairs, of_sentences = (
        space(teacher(part)) for part in (classes, fresh, pairs, sentences)
    )
    known = space(teacher(trained))
    targets = known if start is None else start(trained)
    names = targets[[trained.index(name) for name in name_of.values()]]
    single = torch.tensor([" " not in text for text in trained])

    def pulled(texts: list[str], targets: torch.Tensor) -> torch.Tensor:
        """A phrase pulls phrases only: "street" is no "street sign"."""
        towards_all, towards_words = pull(targets, known, names), pull(targets, known[single], names[single])
        return torch.where(torch.tensor([[" " in text] for text in texts]), towards_all, towards_words)

    of_classes = pulled(classes, of_classes)
    of_classes[[classes.index(text) for text in trained]] = targets
    of_fresh, of_pairs = pulled(fresh, of_fresh), pulled(pairs, of_pairs)
    near = (of_fresh @ names.T).amax(-1) > NEAR
    order = torch.argsort(near, descending=True, stable=True)
    return Corpus(
        classes + [fresh[index] for index in order] + pairs + sentences,
        torch.cat([of_classes, of_fresh[order], of_pairs, of_sentences]),
        len(classes),
        len(classes) + int(near.sum()),
        len(classes) + len(fresh),
    )
