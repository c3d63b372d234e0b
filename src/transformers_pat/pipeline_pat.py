"""The `zero-shot-image-segmentation` pipeline: photos and words in, one mask per word out."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import Pipeline

from .image_io_pat import load_photo, size_for_windows
from .outputs_pat import PatSegmentationOutput
from .postprocessing_pat import segment, valid_logits
from .processing_pat import PatProcessor
from .prompts_pat import BACKGROUND, LEARNED, check_background, check_labels, resolve_templates, split_candidate_labels

NOT_STREAMS = (str, dict, list, Image.Image, np.ndarray, torch.Tensor, Dataset)


class PatSegmentationPipeline(Pipeline):
    """
    Open-vocabulary semantic segmentation.

    ```python
    pipe = pipeline("zero-shot-image-segmentation", model="org/pat-vitb16")
    pipe("street.jpg", candidate_labels=["road", "car", "tree;bush"])
    ```

    Needs a `PatProcessor`, or an image processor and a tokenizer to make one from. Call it with

    - one photo: a path, URL, PIL image or pixels (integers from 0 to 255; a numpy array (H, W, 3) or a tensor
      (3, H, W)), or a dict `{"image": photo, "candidate_labels": [...]}`; the result is a list of
      `{"score": float, "label": str, "mask": PIL image}`, see `postprocess`;
    - stored codes of a photo: a dict `{"codes": [...], "size": (height, width)}`, with a (rows, columns) array per
      level, and the size of the masks; `"output_size"` as in `PatModel.decode`;
    - a list or tuple of photos: a list of such lists;
    - a generator, a torch or `datasets` data set (rows with an `"image"`) or column: an iterator over such lists.

    Parameters, at construction or per call:

        candidate_labels (`list[str]`, `str` or `list[list[str]]`):
            The words, `"tree;bush"` being one label with two synonyms; as a comma-separated string; or one list per
            photo when a list of photos is given. Without it, the vocabulary baked into the model.
        background (`None`, `"learned"`, `float` or `list[str]`, defaults to `None`):
            `None`: every pixel gets the best of the labels. `"learned"`: pixels that fit none of the labels, as the
            model learned in training, become `"background"`. A number between 0 and 1: pixels whose best label is
            less probable do. A list of words: they compete with the labels for pixels, and what they win does.
        threshold (`float`, *optional*):
            Masks with a lower score are left out of the result.
        templates (`str` or `list[str]`, *optional*):
            Prompt templates in place of the processor's own.
        window_size, window_stride (`int`, *optional*):
            Segment by sliding windows of this many pixels, this far apart (half a window by default), on the photo at
            its own resolution, or enlarged where the image processor would enlarge it. Multiples of the patch size.
        timeout (`float`, *optional*):
            Seconds to wait for a URL.

    Photos of equal processed shape in a batch run together; a photo's masks do not depend on `batch_size`.

    Raises:
        `ValueError`: a photo that cannot be read, by name; labels that are missing, empty, repeated or too long; a
        parameter out of its range.
    """

    processor: Any
    image_processor: Any
    tokenizer: Any
    _load_processor = None
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.image_processor = self.image_processor or getattr(self.processor, "image_processor", None)
        self.tokenizer = self.tokenizer or getattr(self.processor, "tokenizer", None)
        if self.image_processor is None or self.tokenizer is None:
            raise ValueError(
                "the pipeline found no PatProcessor with this model: pass processor=PatProcessor.from_pretrained(...)"
            )
        templates = getattr(self.processor, "prompt_templates", "simple")
        self.processor = PatProcessor(self.image_processor, self.tokenizer, prompt_templates=templates)

    def save_pretrained(self, save_directory, **kwargs):
        """Saves the model and the whole processor, prompt templates included."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def _sanitize_parameters(
        self,
        candidate_labels=None,
        background=None,
        threshold=None,
        templates=None,
        window_size=None,
        window_stride=None,
        timeout=None,
    ):
        if threshold is not None and not (isinstance(threshold, int | float | np.floating) and 0 <= threshold <= 1):
            raise ValueError(f"threshold must be a number between 0 and 1, got {threshold!r}")
        for name, value in (("window_size", window_size), ("window_stride", window_stride)):
            if value is not None and not isinstance(value, Integral):
                raise ValueError(f"{name} must be a whole number of pixels, got {value!r}")
        if window_stride is not None and window_size is None:
            raise ValueError("window_stride needs a window_size")
        if templates is not None:
            resolve_templates(templates)
        if background is not None:
            background = check_background(background)
        labels = None if candidate_labels is None else _check_candidate_labels(candidate_labels)
        preprocess = {"timeout": timeout, "candidate_labels": labels, "window_size": window_size}
        forward = {"templates": templates, "window_size": window_size, "window_stride": window_stride}
        return tuple(
            {name: value for name, value in ({"background": background} | parameters).items() if value is not None}
            for parameters in (preprocess, forward, {"threshold": threshold})
        )

    def __call__(self, inputs, candidate_labels=None, **kwargs):
        """See the class."""
        if isinstance(inputs, tuple):
            inputs = list(inputs)
        if _is_one_list_per_photo(candidate_labels):
            inputs, candidate_labels = _pair(inputs, candidate_labels), None
        if isinstance(inputs, list) and not inputs:
            return []
        if isinstance(inputs, Iterable) and not isinstance(inputs, NOT_STREAMS):
            inputs = (one for one in inputs)  # columns and data sets of other libraries: streamed, as generators are
        return super().__call__(inputs, candidate_labels=candidate_labels, **kwargs)

    def preprocess(self, inputs, candidate_labels=None, background=None, window_size=None, timeout=None):
        """One photo to `pixel_values` and the words to look for. Lists keep the batching from joining the tensors."""
        if isinstance(inputs, dict):
            own_labels = inputs.get("candidate_labels")
            candidate_labels = candidate_labels if own_labels is None else _check_candidate_labels(own_labels)
            inputs = inputs if "codes" in inputs else inputs["image"]
        labels = self._vocabulary() if candidate_labels is None else candidate_labels
        words = check_labels(labels + background) if isinstance(background, list) else labels
        if background is not None and BACKGROUND in [label.casefold() for label in labels]:
            raise ValueError(f"{BACKGROUND!r} is both a candidate label and what background= adds: give one of them")
        item = {"labels": labels, "words": words, "baked": candidate_labels is None}
        if isinstance(inputs, dict):
            if window_size is not None:
                raise ValueError("windows need the photo itself: stored codes have the size that was tokenised")
            codes = [torch.as_tensor(np.asarray(level, dtype=np.int64))[None] for level in inputs["codes"]]
            return {"photos": [{**item, **inputs, "codes": codes}]}
        photo = load_photo(inputs, timeout=timeout)
        resizing = {}
        if window_size:
            size = {name: value for name, value in dict(self.image_processor.size).items() if value}
            resizing["size"] = size_for_windows(photo.height, photo.width, size, self.image_processor.size_divisor)
        pixel_values = self.image_processor(photo, return_tensors="pt", **resizing)["pixel_values"]
        item |= {"pixel_values": pixel_values.to(self.dtype), "size": (photo.height, photo.width)}
        return {"photos": [item]}

    def _vocabulary(self) -> list[str]:
        if not getattr(self.model.config, "vocabulary_baked", False):
            raise ValueError("give candidate_labels: this model has no vocabulary of its own (model.set_vocabulary)")
        return [label for _, label in sorted(self.model.config.id2label.items())]

    def _forward(self, inputs, background=None, templates=None, window_size=None, window_stride=None):
        photos = _flatten(inputs["photos"])
        groups: dict[tuple, list[dict]] = {}
        for photo in photos:
            key = (_shape(photo), tuple(photo["words"]), photo["baked"])
            groups.setdefault(key, []).append(photo)
        for group in groups.values():
            text_embeds = self._text_embeds(group[0], templates)
            if background == LEARNED:
                text_embeds = self.model.add_background(text_embeds)
            if "codes" in group[0]:
                levels = [torch.cat(level) for level in zip(*(photo.pop("codes") for photo in group), strict=True)]
                logits = self.model.segment_codes(levels, text_embeds, group[0].get("output_size"))
                outputs = PatSegmentationOutput(logits=logits)
            else:
                pixel_values = torch.cat([photo.pop("pixel_values") for photo in group])
                outputs = self._segment_pixels(pixel_values, text_embeds, window_size, window_stride)
            for photo, logits in zip(group, valid_logits(outputs), strict=True):
                photo["logits"] = logits
        return {"photos": photos}

    def _segment_pixels(self, pixel_values, text_embeds, window_size, window_stride) -> PatSegmentationOutput:
        if window_size is None:
            return self.model(pixel_values=pixel_values, text_embeds=text_embeds)
        stride = window_stride or window_size // 2
        return self.model.segment_windows(
            pixel_values, text_embeds=text_embeds, window_size=window_size, stride=stride
        )

    def _text_embeds(self, photo: dict, templates) -> torch.Tensor:
        """`(num_words, dim)`: the baked classes, if the caller named none, then the other words."""
        parts, words = [], photo["words"]
        if photo["baked"]:
            parts.append(self.model.class_embeds)
            words = words[len(photo["labels"]) :]
        if words:
            parts.append(self.model.get_text_embeds(words, self.processor, templates=templates))
        return torch.cat(parts)

    def postprocess(self, outputs, background=None, threshold=None):
        """
        The masks of one photo, largest first (equal areas in the labels' order), labels without a pixel left out.

        Each is a dict of `label`, as the caller wrote it; `mask`, a PIL image of mode L with 255 inside and 0 outside,
        of the photo's own size once upright; and `score`, the mean over the mask's pixels of the winner's softmax
        probability among all the words, for thresholded background of its complement.
        """
        (photo,) = _flatten([outputs["photos"]])
        names, num_labels = list(photo["labels"]), len(photo["labels"])
        found, scores = segment(photo["logits"], photo["size"], with_scores=True)
        if background is not None:
            names.append(BACKGROUND)
            # The caller's labels come first, then the distractors; both policies end in the index after the labels.
            by_score = isinstance(background, float)
            outside = scores < background if by_score else found >= num_labels
            found = torch.where(outside, num_labels, found)
            if by_score:
                scores = torch.where(outside, 1 - scores, scores)
        areas = torch.bincount(found.flatten(), minlength=len(names))
        sums = torch.bincount(found.flatten(), weights=scores.double().flatten(), minlength=len(names))
        order = sorted(areas.nonzero().flatten().tolist(), key=lambda index: -areas[index])
        results = [
            {"score": (sums[index] / areas[index]).item(), "label": names[index], "mask": _mask(found == index)}
            for index in order
        ]
        return [result for result in results if threshold is None or result["score"] >= threshold]


def _mask(pixels: torch.Tensor) -> Image.Image:
    return Image.fromarray(pixels.numpy().astype(np.uint8) * 255)


def _shape(photo: dict) -> tuple:
    """What must be equal for two photos to run together."""
    if "codes" in photo:
        return (*(level.shape for level in photo["codes"]), photo.get("output_size"))
    return photo["pixel_values"].shape


def _flatten(photos: list) -> list[dict]:
    """Transformers hands over a list of photos, or when it has batched them a list of such lists."""
    return [photo for one in photos for photo in (one if isinstance(one, list) else [one])]


def _is_one_list_per_photo(labels) -> bool:
    return isinstance(labels, (list, tuple)) and len(labels) > 0 and isinstance(labels[0], (list, tuple))


def _pair(photos, label_lists) -> list[dict]:
    if not isinstance(photos, list):
        raise ValueError("one list of candidate labels per photo needs a list of photos")
    if len(photos) != len(label_lists):
        raise ValueError(f"got {len(label_lists)} lists of candidate labels for {len(photos)} photos")
    return [{"image": photo, "candidate_labels": one} for photo, one in zip(photos, label_lists, strict=True)]


def _check_candidate_labels(labels) -> list[str]:
    return check_labels(split_candidate_labels(labels) if isinstance(labels, str) else labels)


__all__ = ["PatSegmentationPipeline"]
