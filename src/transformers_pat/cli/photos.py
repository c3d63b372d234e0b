"""What `transformers-pat segment` and `reconstruct` compute: from photos to results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

import numpy as np
from PIL import Image

from ..prompts_pat import BACKGROUND, LEARNED, check_labels, resolve_templates, split_candidate_labels

if TYPE_CHECKING:
    import torch

    from ..archive import TokenizedPhoto
    from ..pipeline_pat import PatSegmentationPipeline
    from ..reconstruction import Reconstruction

# torch and transformers are imported where they are needed: ONNX Runtime does without.

# A photo, or its codes in an archive.
Photo = Union[Image.Image, "TokenizedPhoto"]


@dataclass
class Region:
    """One label's part of a photo: share of its pixels, 0 to 1, and their mean score, None if there are none."""

    id: int
    label: str
    share: float
    mean_score: float | None


class Segmenter:
    """
    Segments photos with one list of labels.

    Args:
        find_masks: From photos, or codes as the pipeline reads them, to the masks of each as the pipeline gives them.
        labels: All labels that masks can have, in order.
        pipeline: What finds them, if it is PyTorch's: only that reads codes.
    """

    def __init__(
        self,
        find_masks: Callable[[list], list[list[dict]]],
        labels: list[str],
        pipeline: "PatSegmentationPipeline | None" = None,
    ):
        self.find_masks, self.labels, self.pipeline = find_masks, labels, pipeline

    def __call__(self, photos: Sequence[Photo]) -> list[tuple[np.ndarray, list[Region]]]:
        """Label map of each photo, (H, W) int64 indices into `labels`, and a [`Region`] for each label, in order."""
        inputs = [photo if isinstance(photo, Image.Image) else photo.to_pipeline() for photo in photos]
        return [self._merge(photo, masks) for photo, masks in zip(photos, self.find_masks(inputs), strict=True)]

    def picture(self, photo: Photo) -> Image.Image:
        """What to draw masks on: the photo, or what its codes decode to, at the photo's size."""
        if isinstance(photo, Image.Image):
            return photo
        assert self.pipeline is not None
        from ..archive.pictures import show_photo

        picture = show_photo(photo, self.pipeline.model.pat, self.pipeline.processor)
        return picture.resize((photo.width, photo.height))

    def _merge(self, photo: Photo, masks: list[dict]) -> tuple[np.ndarray, list[Region]]:
        label_map = np.zeros((photo.height, photo.width), dtype=np.int64)
        regions = [Region(index, label, 0.0, None) for index, label in enumerate(self.labels)]
        for found in masks:
            index = self.labels.index(found["label"])
            mask = np.asarray(found["mask"]) > 0
            label_map[mask] = index
            regions[index] = Region(index, found["label"], round(float(mask.mean()), 6), round(found["score"], 6))
        return label_map, regions


def torch_segmenter(
    checkpoint: str,
    labels: list[str] | None,
    background: str | None = None,
    templates: str | None = None,
    window: int | None = None,
    device: str | None = None,
) -> Segmenter:
    """
    Load a checkpoint for one list of labels.

    Args:
        checkpoint: Hub name or folder.
        labels: Words, ";" between synonyms; the checkpoint's fixed vocabulary if None.
        background: What to label "background", see [`parse_background`]. None: every pixel gets one of the labels.
        templates: Prompt templates; the checkpoint's by default.
        window: Side in pixels of a sliding window over the photo at its full resolution; by default the photo is
            resized to the model's size.
        device: Where to compute, as torch names it; the CPU by default.

    Raises:
        ValueError: If labels, templates, background, window or device are not usable, or the checkpoint is damaged.
        OSError: If the checkpoint can't be loaded.
    """
    policy = check_words(labels, background, templates)
    from ..loading import load_checkpoint
    from ..modeling_pat import PatForSemanticSegmentation
    from ..onnx import check_window
    from ..pipeline_pat import PatSegmentationPipeline

    model, processor = load_checkpoint(PatForSemanticSegmentation, checkpoint)
    to_device(model, device)
    if window is not None:
        check_window(window, model.config.vision_config.patch_size)
    if labels is None and model.class_embeds is None:
        raise ValueError("this checkpoint has no vocabulary of its own: say what to look for with --labels")
    if to_encode := [*(labels or []), *(policy if isinstance(policy, list) else [])]:
        model.get_text_embeds(to_encode, processor, templates)  # a label that is too long shows now
    pipeline = PatSegmentationPipeline(
        model=model,
        processor=processor,
        device=model.device,
        candidate_labels=labels,
        background=policy,
        templates=templates,
        window_size=window,
    )
    words = labels or [label for _, label in sorted(model.config.id2label.items())]
    return Segmenter(
        lambda photos: pipeline(photos, batch_size=len(photos)),
        words if background is None else [*words, BACKGROUND],
        pipeline,
    )


def onnx_segmenter(
    folder: str,
    labels: list[str] | None,
    background: str | None = None,
    templates: str | None = None,
    window: int | None = None,
) -> Segmenter:
    """Load what `transformers-pat export` wrote, without PyTorch. Args: see [`torch_segmenter`]; labels are needed."""
    if labels is None:
        raise ValueError("--runtime onnx needs --labels")
    policy = check_words(labels, background, templates)
    from ..onnx import OnnxSegmenter, check_window

    segmenter = OnnxSegmenter(folder)
    if window is not None:
        check_window(window, segmenter.facts.size_divisor)
    segmenter.get_class_embeds([*labels, *(policy if isinstance(policy, list) else [])], templates)

    def find_masks(photos: list) -> list[list[dict]]:
        return [segmenter(photo, labels, policy, templates, window) for photo in photos]

    return Segmenter(find_masks, labels if background is None else [*labels, BACKGROUND])


def to_device(model: "torch.nn.Module", device: str | None) -> None:
    """Move a model; `ValueError` if torch has no such device here."""
    try:
        model.to(device or "cpu")
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from None


def check_words(
    labels: list[str] | None, background: str | None, templates: str | None
) -> str | float | list[str] | None:
    """The background policy; `ValueError` if it, the labels or the templates are not usable."""
    words = [] if labels is None else check_labels(labels)
    if len(words) == 1 and background is None:
        raise ValueError(
            f"{words[0]!r} alone would get every pixel: give other labels too, or say what else there is, "
            "for instance with --background learned"
        )
    policy = parse_background(background)
    distractors = policy if isinstance(policy, list) else []
    check_labels([*words, *distractors, *([BACKGROUND] if background is not None else [])] or ["none"])
    if templates is not None:
        resolve_templates(templates)
    return policy


class Reconstructor:
    """
    Encodes and decodes photos with one checkpoint.

    Args:
        checkpoint: Hub name or folder.
        device: Where to compute, as torch names it; the CPU by default.

    Raises:
        ValueError: If the checkpoint is damaged or not of a PAT model, or there is no such device.
        OSError: If it can't be loaded.
    """

    def __init__(self, checkpoint: str, device: str | None = None):
        from ..loading import load_checkpoint
        from ..modeling_pat import PatModel

        self.model, self.processor = load_checkpoint(PatModel, checkpoint)
        to_device(self.model, device)

    def __call__(self, photo: Photo) -> "tuple[Image.Image | None, list[Reconstruction]]":
        """The photo at the model's size, None if only its codes are left; and its reconstructions."""
        from ..reconstruction import reconstruct, reconstruct_codes

        if isinstance(photo, Image.Image):
            return reconstruct(self.model, self.processor, photo)
        from ..archive.pictures import find_photo

        height, width = photo.pixels
        original = find_photo(photo)
        original = original and original.resize((width, height), Image.Resampling.BICUBIC)
        return original, reconstruct_codes(self.model, self.processor, photo.to_tensors(), photo.pixels, original)


def parse_background(background: str | None) -> str | float | list[str] | None:
    """
    Parse the option as the pipeline's `background`: `"learned"`, a score such as `"0.5"`, or words: `"wall, floor"`.

    Raises:
        ValueError: If the words are not usable or the score is not between 0 and 1.
    """
    if background is None or background == LEARNED:
        return background
    try:
        score = float(background)
    except ValueError:
        words = check_labels(split_candidate_labels(background))
        if all(word.isdigit() for word in words):
            raise ValueError(f"--background {background!r} is neither a score such as 0.5 nor words") from None
        return words
    if not 0 < score < 1:
        raise ValueError(f"a background score must be between 0 and 1, got {background}")
    return score
