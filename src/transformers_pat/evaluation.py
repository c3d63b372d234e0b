"""Segment a whole split and score it, one photo at a time."""

from pathlib import Path
from typing import Literal

import torch
from tqdm.auto import tqdm

from .data import FolderDataset
from .metrics import SegmentationMetric
from .outputs_pat import PatSegmentationOutput

Source = Literal["pixels", "codes", "floor"]


@torch.no_grad()
def evaluate_folder(
    model,
    processor,
    folder: str | Path,
    split: str,
    words: dict[str, str] | None = None,
    source: Source = "pixels",
    progress: bool = True,
) -> tuple[SegmentationMetric, list[str]]:
    """
    Segment every photo of a plain-folder data set by its class names.

    Args:
        model: A `PatForSemanticSegmentation`.
        processor: Its `PatProcessor`.
        folder, split: See [`FolderDataset`]; a class called "background" is ignored.
        words: Class name -> the word to ask with instead, for synonyms.
        source: `"pixels"`; `"codes"`, from the tokens alone; `"floor"`, CLIP's patch embeddings without any training.
        progress: Whether to show a progress bar.

    Returns:
        The filled metric, and the class names in its order.
    """
    dataset = FolderDataset(folder, split)
    asked = [(words or {}).get(name, name) for name in dataset.names]
    text_embeds = model.get_text_embeds(asked, processor)
    segment = SEGMENTERS[source]
    metric = SegmentationMetric(len(dataset.names))
    for sample in tqdm(dataset, desc=f"{Path(folder).name} {split}", disable=not progress):
        pixel_values = processor(images=[sample.image], return_tensors="pt").pixel_values.to(model.device)
        outputs = segment(model, pixel_values, text_embeds)
        maps = processor.post_process_semantic_segmentation(outputs, target_sizes=[sample.labels.shape])
        metric.update(maps[0].cpu(), torch.from_numpy(sample.labels))
    return metric, dataset.names


def from_pixels(model, pixel_values: torch.Tensor, text_embeds: torch.Tensor):
    """The model as it is."""
    return model(pixel_values=pixel_values, text_embeds=text_embeds)


def from_codes(model, pixel_values: torch.Tensor, text_embeds: torch.Tensor):
    """Encode, forget the image, segment."""
    codes = model.pat.encode(pixel_values).codes
    return PatSegmentationOutput(logits=model.segment_codes(codes, text_embeds, tuple(pixel_values.shape[-2:])))


def from_clip(model, pixel_values: torch.Tensor, text_embeds: torch.Tensor):
    """Training-free: similarities of CLIP's dense patch embeddings."""
    dense = model.pat.extract_features(pixel_values).dense_embeds
    return PatSegmentationOutput(logits=model.logit_scale.exp() * (dense @ text_embeds.T).permute(0, 3, 1, 2))


# How each `source` turns an image into an output with logits.
SEGMENTERS = {"pixels": from_pixels, "codes": from_codes, "floor": from_clip}
