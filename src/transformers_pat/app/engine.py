"""What the app computes. Everything that a visitor can do wrong is a `ValueError` with one line."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..archive.archive import TokenArchive
from ..archive.codes import nearest_words, spread, tokenize_one
from ..archive.context import common_words
from ..archive.query import Query
from ..archive.search import Found, Searcher
from ..archive.tables import CodeTables
from ..archive.tokenizing import describe
from ..cli.photos import Region, Segmenter
from ..evaluation.predictors import training_free
from ..image_io_pat import load_photo, to_rgb
from ..loading import load_checkpoint
from ..modeling_pat import PatForSemanticSegmentation
from ..pipeline_pat import PatSegmentationPipeline
from ..prompts_pat import BACKGROUND, check_labels, split_candidate_labels
from ..reconstruction import Reconstruction, reconstruct

# Our choice, for a page: the legend stays readable, the photo small enough to be sent back.
MOST_LABELS = 100
MOST_PIXELS_SHOWN = 2_000_000


@dataclass
class Segmentation:
    """A photo as it is shown, its label map, (H, W) int64 of the same size, and a region per label."""

    photo: Image.Image
    label_map: np.ndarray
    regions: list[Region]


@dataclass
class CodeAt:
    """The code at a place: its level and index, its cells of the photo, (H, W) bool, and the words nearest to it."""

    level: int
    index: int
    cells: np.ndarray
    words: list[str]


class Engine:
    """
    One checkpoint, and an archive of its tokens to search.

    Args:
        model: A folder, a Hub name, or pat-nano.
        archive: Folder of an archive that the checkpoint made.
        megapixels: Largest photo that is opened.

    Raises:
        ValueError: If the checkpoint or the archive is not usable.
        OSError: If it can't be loaded.
    """

    def __init__(self, model: str = "pat-nano", archive: str | Path | None = None, megapixels: int = 25):
        self.name, self.megapixels = model, megapixels
        self.model, self.processor = load_checkpoint(PatForSemanticSegmentation, model)
        self.pipeline = PatSegmentationPipeline(model=self.model, processor=self.processor)
        self.searcher = None
        if archive is not None:
            self.searcher = Searcher(TokenArchive(str(archive)), self.model, self.processor, workers=1)

    def open(self, path: str | Path | None) -> Image.Image:
        """The photo as it is shown: RGB, upright, and scaled down to two megapixels if it has more."""
        if path is None:
            raise ValueError("choose a photo first")
        try:
            opened = Image.open(path)  # once: what is checked is what is shown
        except Exception:  # a damaged file makes Pillow raise nearly anything
            raise ValueError("this file is no photo that can be read: try a JPEG or PNG") from None
        with opened:
            if opened.width * opened.height > self.megapixels * 1_000_000:
                size = f"{opened.width * opened.height / 1e6:.0f} megapixels"
                raise ValueError(f"this photo has {size}; {self.megapixels} is the most here")
            photo = to_rgb(load_photo(opened))
        scale = (MOST_PIXELS_SHOWN / (photo.width * photo.height)) ** 0.5
        if scale < 1:
            photo = photo.resize((max(1, int(photo.width * scale)), max(1, int(photo.height * scale))))
        return photo

    def read_words(self, text: str) -> list[str]:
        """Labels from comma-separated words."""
        labels = [label for label in split_candidate_labels(text.replace("\n", ",")) if label.strip()]
        if not labels:
            raise ValueError('type what to look for, for instance "sky, building, tree"')
        if len(labels) > MOST_LABELS:
            raise ValueError(f"{len(labels)} labels are too many for this page: {MOST_LABELS} is the most here")
        return check_labels(labels)

    def segment(self, photo: Image.Image, labels: list[str], background: str | list[str] | None) -> Segmentation:
        """Find labels in a photo; `background` is the pipeline's."""
        if len(labels) == 1 and background is None:
            raise ValueError(f"{labels[0]!r} alone would get every pixel: add other words, or choose a background")
        words = labels if background is None else [*labels, BACKGROUND]
        segmenter = Segmenter(
            lambda photos: self.pipeline(photos, candidate_labels=labels, background=background), words
        )
        ((label_map, regions),) = segmenter([photo])
        return Segmentation(photo, label_map, regions)

    @torch.inference_mode()
    def baseline(self, photo: Image.Image, labels: list[str]) -> Segmentation:
        """What the frozen CLIP finds alone, without any training on masks."""
        pixel_values = self.processor(images=[photo], return_tensors="pt")["pixel_values"]
        outputs = training_free(self.model, pixel_values, self.model.get_text_embeds(labels, self.processor))
        sizes = [(photo.height, photo.width)]
        (label_map,) = self.processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        ids = label_map.numpy()
        shares = np.bincount(ids.ravel(), minlength=len(labels)) / ids.size
        regions = [Region(index, label, float(shares[index]), None) for index, label in enumerate(labels)]
        return Segmentation(photo, ids, regions)

    def reconstruct(self, photo: Image.Image) -> list[Reconstruction]:
        """The photo from 1, 2, ... levels of tokens."""
        return reconstruct(self.model.pat, self.processor, photo)[1]

    @torch.inference_mode()
    def code_at(self, photo: Image.Image, level: int, x: float, y: float) -> CodeAt:
        """The code of a level at a place, `x` and `y` from 0 to 1."""
        stored, _ = tokenize_one(photo, self.model.pat, self.processor)
        codes = stored.codes[level]
        row, column = (min(int(at * side), side - 1) for at, side in zip((y, x), codes.shape, strict=True))
        index = int(codes[row, column])
        words = common_words()
        embeds = self.model.get_text_embeds(words, self.processor)
        tables = CodeTables.fit(self.model.pat, describe(self.model.pat, self.name), [stored])
        cells = spread(codes == index, (photo.height, photo.width))
        return CodeAt(level, index, cells, nearest_words(level, tables, embeds, words)[index])

    def search(self, words: list[str], top: int) -> list[Found]:
        """The photos of the archive that show any of the words, best first."""
        if self.searcher is None:
            raise ValueError("start the app with --archive to search one")
        return self.searcher(Query(words, top=top))
