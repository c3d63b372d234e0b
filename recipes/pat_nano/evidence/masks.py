"""The masks: by levels of codes, by other words, absent words, another order, damaged and scaled photos."""

import copy
import functools
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from transformers_pat.data import FolderDataset, SegmentationDataset
from transformers_pat.evaluation import evaluate_dataset
from transformers_pat.evaluation.predictors import from_codes
from transformers_pat.evaluation.report import markdown_table as table

from .figures import Altered, mean_iou

SYNONYMS = Path(__file__).parents[1] / "held_out_synonyms.json"
# Fifty things that the measured sets have no class for, and that photos of streets, farms and rooms hardly show.
ABSENT = (
    "volcano, submarine, accordion, telescope, penguin, igloo, anchor, trombone, microscope, cactus, lighthouse, "
    "pyramid, rocket, satellite, piano, violin, chandelier, waterfall, tractor, crocodile, octopus, jellyfish, "
    "kangaroo, camel, lobster, spider, snail, peacock, flamingo, trumpet, hourglass, parachute, windmill, tent, "
    "canoe, harp, globe, crown, sword, skeleton, dinosaur, mushroom, pineapple, pumpkin, snowman, typewriter, "
    "sewing machine, cannon, seahorse, stadium"
).split(", ")


# The parts of the evidence are processes already.
evaluate = functools.partial(evaluate_dataset, workers=0)


class Asked(SegmentationDataset):
    """A data set asked with other prompts; `prompt_classes` says which class each stands for."""

    prompts: list[str] = []
    prompt_classes: list[int] = []

    def __init__(self, dataset: SegmentationDataset, prompts: list[str], prompt_classes: list[int], names: list[str]):
        self.dataset, self.ignore_index, self.names = dataset, dataset.ignore_index, names
        self.prompts, self.prompt_classes = prompts, prompt_classes

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int):
        return self.dataset[index]


def words_table(model, processor, datasets: dict[str, FolderDataset]) -> str:
    """Names, synonyms never trained on, 50 absent words in the list, and the list in another order."""
    synonyms = json.loads(SYNONYMS.read_text(encoding="utf-8"))
    rows = []
    for name, dataset in datasets.items():
        plain = evaluate(model, processor, dataset)
        others = [synonyms[name].get(word, word) for word in dataset.prompts]
        by_synonyms = mean_iou(evaluate(model, processor, dataset, others))
        count, padded_names = len(dataset.names), [*dataset.names, *ABSENT]
        padded = Asked(dataset, padded_names, list(range(len(padded_names))), padded_names)
        padded = evaluate(model, processor, padded)
        alarms = padded.metric.confusion[:, count:].sum() / padded.metric.confusion.sum()
        order = np.random.default_rng(0).permutation(count).tolist()
        shuffled = Asked(dataset, [dataset.names[index] for index in order], order, dataset.names)
        moved = (evaluate(model, processor, shuffled).metric.confusion - plain.metric.confusion).abs().sum() // 2
        names_score = mean_iou(plain)
        rows.append(
            (
                name,
                f"{names_score:.3f}",
                f"{by_synonyms:.3f} ({by_synonyms / names_score:.0%})",
                f"{mean_iou(padded):.3f}",
                f"{alarms:.1%}",
                f"{moved} of {plain.metric.confusion.sum()}",
            )
        )
    header = ("set", "names", "synonyms", "names and 50 absent words", "pixels given to absent words")
    return table((*header, "pixels that another order changes"), rows)


def levels_table(model, processor, datasets: dict[str, FolderDataset]) -> str:
    """Mean IoU, and that near boundaries, from the codes of the coarsest levels alone and from pixels."""
    sources = {
        f"codes, {levels} of {model.config.num_levels} levels": functools.partial(from_codes, num_levels=levels)
        for levels in range(1, model.config.num_levels + 1)
    }
    rows = []
    for title, source in {**sources, "pixels": "pixels"}.items():
        cells = []
        for dataset in datasets.values():
            evaluation = evaluate(model, processor, dataset, source=source)
            cells += [mean_iou(evaluation), evaluation.boundary_metric.compute()["mean_iou"]]
        rows.append((title, *(f"{cell:.3f}" for cell in cells)))
    header = [f"{name}, {figure}" for name in datasets for figure in ("mIoU", "boundary mIoU")]
    return table(("from", *header), rows)


def as_jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(photo: Image.Image) -> Image.Image:
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return change


def blur(radius: float) -> Callable[[Image.Image], Image.Image]:
    """Gaussian, radius as a share of the photo's short side."""
    return lambda photo: photo.filter(ImageFilter.GaussianBlur(radius * min(photo.size)))


def brighten(factor: float) -> Callable[[Image.Image], Image.Image]:
    return lambda photo: ImageEnhance.Brightness(photo).enhance(factor)


CHANGES = {
    "JPEG quality 30": as_jpeg(30),
    "JPEG quality 10": as_jpeg(10),
    "blur, 0.5 % of the short side": blur(0.005),
    "blur, 1 % of the short side": blur(0.01),
    "brightness × 0.5": brighten(0.5),
    "brightness × 1.5": brighten(1.5),
}
SCALES = (0.5, 0.75, 1.5, 2)


def robustness_table(model, processor, datasets: dict[str, FolderDataset]) -> str:
    """Mean IoU of damaged photos, and of photos given to the model at other sizes."""

    def score(asked_processor, change=None) -> list[str]:
        changed = {name: Altered(dataset, change) if change else dataset for name, dataset in datasets.items()}
        return [f"{mean_iou(evaluate(model, asked_processor, dataset)):.3f}" for dataset in changed.values()]

    rows = [("as they are", *score(processor))]
    rows += [(title, *score(processor, change)) for title, change in CHANGES.items()]
    for scale in SCALES:
        scaled = copy.deepcopy(processor)
        size = round(scale * processor.image_processor.size["shortest_edge"])
        scaled.image_processor.size["shortest_edge"] = size
        rows.append((f"short side {size} instead (× {scale:g})", *score(scaled)))
    return table(("photos", *datasets), rows)
