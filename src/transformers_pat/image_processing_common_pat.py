"""What both image processors share: reading photos, sizes, label maps, padding, post-processing."""

import os
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import torch
from torch.nn import functional as F
from transformers.image_processing_base import BatchFeature
from transformers.image_processing_outputs import SemanticSegmentationPostProcessorOutput
from transformers.image_utils import (
    OPENAI_CLIP_MEAN,
    OPENAI_CLIP_STD,
    ImageInput,
    PILImageResampling,
    SizeDict,
    is_valid_image,
)
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import logging

from .hub_pat import AUTO_MAP, copy_code
from .image_io_pat import load_photo, target_size, to_8_bit, to_rgb
from .postprocessing_pat import check_target_sizes, segment, valid_logits

if TYPE_CHECKING:
    from transformers.image_processing_backends import PilBackend as Backend
else:
    Backend = object

logger = logging.get_logger(__name__)


class PatImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """
    Keywords of both image processors beside transformers' own.

    size_divisor (`int`, *optional*, defaults to 16):
        With an aspect-keeping `size`, each side becomes a multiple of this.
    ignore_index (`int`, *optional*, defaults to 255):
        The label that pads segmentation maps, left out of the loss. Give 65535 or -100 when 255 is a class.
    """

    size_divisor: int
    ignore_index: int


def _list_of_maps(segmentation_maps) -> list:
    """One map or several, of any accepted kind, as a list of maps."""
    if isinstance(segmentation_maps, (PIL.Image.Image, str, os.PathLike)):
        return [segmentation_maps]
    if isinstance(segmentation_maps, (np.ndarray, torch.Tensor)):
        return [segmentation_maps] if segmentation_maps.ndim == 2 else list(segmentation_maps)
    maps = list(segmentation_maps)
    rows_of_numbers = maps and isinstance(maps[0], (list, tuple)) and not isinstance(maps[0][0], (list, tuple))
    return [maps] if rows_of_numbers else maps


def read_map(segmentation_map, ignore_index: int) -> np.ndarray:
    """
    A segmentation map as a fresh int64 array of shape `(height, width)`.

    Takes PIL images of one channel (palette images give their indices), numpy, torch, nested lists and paths; the
    caller's data stay as they were. Raises `ValueError` for colour images, fractions and negative ids other than
    `ignore_index`.
    """
    if isinstance(segmentation_map, (str, os.PathLike, PIL.Image.Image)):
        segmentation_map = load_photo(segmentation_map)
    elif isinstance(segmentation_map, torch.Tensor):
        segmentation_map = segmentation_map.detach().cpu().numpy()
    ids = np.asarray(segmentation_map)
    if ids.ndim == 3 and 1 in (ids.shape[0], ids.shape[-1]):
        ids = ids.squeeze(0 if ids.shape[0] == 1 else -1)
    if ids.ndim != 2 or ids.size == 0:
        raise ValueError(f"a segmentation map must have the shape (height, width), got {ids.shape}: one id per pixel")
    whole = ids.astype(np.int64)
    if not np.array_equal(whole, ids):
        raise ValueError("a segmentation map must hold whole numbers, got fractions")
    if ((whole < 0) & (whole != ignore_index)).any():
        raise ValueError(f"a segmentation map holds the negative id {whole.min()}, which is not ignore_index")
    return whole


def resize_map(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The `(h, w)` map resized to `size`, each pixel taking the id under its centre. Any integer dtype."""
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, ids.shape, strict=True)
    )  # fmt: skip
    return ids[rows[:, None], columns]


class PatImageProcessingMixin(Backend):
    """
    The part of PAT's image processors that does not depend on the backend. Comes before the backend in the bases.

    Photos become `pixel_values` `(batch, 3, height, width)` float32, normalised as CLIP's. Photos of different shapes
    in one call are padded at the bottom and right, with zeros after normalisation, and `pixel_mask`
    `(batch, height, width)` int64 says which pixels are real (1); without padding there is no `pixel_mask`.
    """

    valid_kwargs = PatImageProcessorKwargs
    model_input_names = ["pixel_values"]

    do_convert_rgb = True
    do_resize = True
    size = {"shortest_edge": 448, "longest_edge": 1344}
    default_to_square = False
    resample = PILImageResampling.BICUBIC
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = OPENAI_CLIP_MEAN
    image_std = OPENAI_CLIP_STD
    do_pad = True
    size_divisor = 16
    ignore_index = 255

    def __init__(self, **kwargs: Unpack[PatImageProcessorKwargs]):
        super().__init__(**kwargs)

    def preprocess(
        self, images: ImageInput, segmentation_maps=None, **kwargs: Unpack[PatImageProcessorKwargs]
    ) -> BatchFeature:
        """
        Photos, and on request their label maps, as the model wants them.

        Args:
            images: one photo or a list: PIL (any mode; EXIF orientation is applied), numpy or torch `(height, width)`,
                `(height, width, channels)` or `(channels, height, width)` with 1, 3 or 4 channels, paths, URLs.
                8-bit values, or 16-bit ones, which are scaled down; transparency is laid over white.
            segmentation_maps: one map per photo, of the photo's size: PIL, numpy, torch, nested lists, paths; ids from
                0 to 65535 and `ignore_index`.
            kwargs: any of the processor's fields, for this call only, and `return_tensors`.

        Returns:
            `pixel_values`, `pixel_mask` if anything was padded, and with segmentation maps `labels`
            `(batch, height, width)` int64, resized with the photos (nearest), padded with `ignore_index`.

        Raises:
            `ValueError`: a photo that cannot be read, a map whose size is not its photo's, a wrong number of maps.
        """
        return super().preprocess(images, segmentation_maps, **kwargs)

    def fetch_images(self, image_url_or_urls):
        """Paths, URLs and PIL images read and turned upright, in the nesting given; arrays pass through."""
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(one) for one in image_url_or_urls]
        if isinstance(image_url_or_urls, (str, os.PathLike, PIL.Image.Image)):
            return to_rgb(load_photo(image_url_or_urls))
        if not is_valid_image(image_url_or_urls):
            raise ValueError(
                "images must be PIL images, numpy arrays, torch tensors, paths or URLs, "
                f"got {type(image_url_or_urls).__name__}"
            )
        return image_url_or_urls[None] if image_url_or_urls.ndim == 2 else image_url_or_urls

    def process_image(self, image: ImageInput, *args, **kwargs):
        """One photo in the backend's format, `(3, height, width)`."""
        image = super().process_image(to_8_bit(image), *args, **kwargs)
        if 0 in image.shape:
            raise ValueError(f"an image is empty, its shape is {tuple(image.shape)}")
        if "float" in str(image.dtype) and image.sum() != image.sum():
            raise ValueError("an image holds NaN")
        return image

    def _preprocess_image_like_inputs(
        self, images, segmentation_maps, do_convert_rgb, input_data_format, return_tensors, device=None, **kwargs
    ) -> BatchFeature:
        if kwargs["do_center_crop"]:
            raise ValueError("PAT's image processor does not crop: leave do_center_crop unset")
        photos = self._prepare_image_like_inputs(
            images, do_convert_rgb=do_convert_rgb, input_data_format=input_data_format, device=device
        )
        if len(photos) == 0:
            raise ValueError("the list of images is empty")
        sizes = [tuple(photo.shape[-2:]) for photo in photos]
        targets = sizes
        if kwargs["do_resize"]:
            size, divisor = dict(kwargs["size"]), kwargs["size_divisor"]
            targets = [target_size(height, width, size, divisor) for height, width in sizes]
        data = self._pad_photos([self._to_pixels(*pair, **kwargs) for pair in zip(photos, targets)], **kwargs)  # noqa: B905
        if segmentation_maps is not None:
            maps = self._read_maps(segmentation_maps, sizes, kwargs["ignore_index"])
            maps = [resize_map(*pair) for pair in zip(maps, targets, strict=True)]
            data["labels"] = self._pad_maps(maps, data["pixel_values"], kwargs["ignore_index"])
        return BatchFeature(data=data, tensor_type=return_tensors)

    def _to_pixels(self, photo, target, do_resize, resample, do_rescale, rescale_factor, do_normalize, **kwargs):
        if do_rescale and "float" in str(photo.dtype) and 0 <= photo.min() and photo.max() <= 1:
            logger.warning_once("A photo already has values from 0 to 1: pass do_rescale=False, or 8-bit values.")
        if do_resize:
            photo = self.resize(photo, SizeDict(height=target[0], width=target[1]), resample=resample)
        if do_rescale:
            photo = self.rescale(photo, rescale_factor)
        if do_normalize:
            photo = self.normalize(photo, kwargs["image_mean"], kwargs["image_std"])
        return photo

    def _pad_photos(self, photos, do_pad, pad_size, **kwargs) -> dict:
        if not do_pad:
            return {"pixel_values": photos}
        shapes = [photo.shape for photo in photos]
        photos, masks = self.pad(photos, pad_size=pad_size, return_mask=True)
        if all(photo.shape == shape for photo, shape in zip(photos, shapes, strict=True)):
            return {"pixel_values": photos}
        return {"pixel_values": photos, "pixel_mask": masks}

    def _read_maps(self, segmentation_maps, sizes, ignore_index) -> list[np.ndarray]:
        maps = [read_map(one, ignore_index) for one in _list_of_maps(segmentation_maps)]
        if len(maps) != len(sizes):
            raise ValueError(f"got {len(maps)} segmentation maps for {len(sizes)} images: give one per image")
        for position, (one, size) in enumerate(zip(maps, sizes, strict=True)):
            if one.shape != size:
                raise ValueError(
                    f"segmentation map {position} is {one.shape[0]}x{one.shape[1]} (height x width) "
                    f"but its image is {size[0]}x{size[1]}: they must have the same size"
                )
        return maps

    def _pad_maps(self, maps, photos, ignore_index) -> list[np.ndarray]:
        padding = [np.subtract(photo.shape[-2:], one.shape) for photo, one in zip(photos, maps, strict=True)]
        return [
            np.pad(one, [(0, bottom), (0, right)], constant_values=ignore_index)
            for one, (bottom, right) in zip(maps, padding, strict=True)
        ]

    def post_process_semantic_segmentation(
        self, outputs, target_sizes: list[tuple] | None = None, return_segmentation_scores: bool = False
    ) -> "list[torch.Tensor] | list[SemanticSegmentationPostProcessorOutput]":
        """
        Label maps from the model's outputs, at the size the caller wants.

        Args:
            outputs: with `logits` `(batch, num_labels, h, w)`, which cover exactly the picture, and, when photos of
                different shapes were padded to one batch, `logits_sizes` `(batch, 2)`: the rows and columns to use.
            target_sizes: one `(height, width)` per picture; unset, the maps have the logits' own size.
            return_segmentation_scores: also return the resized logits. They take
                `4 * num_labels * height * width` bytes per picture; without them memory stays bounded.

        Returns:
            A list of int64 `(height, width)` maps of label indices, or of `SemanticSegmentationPostProcessorOutput`
            with `segmentation` and `segmentation_scores` `(num_labels, height, width)`. The maps are those of
            bilinear resizing (`align_corners=False`) followed by `argmax`.

        Raises:
            `ValueError`: no logits in `outputs`, or as many target sizes as pictures are not given.
        """
        logits = valid_logits(outputs)
        if target_sizes is None:
            target_sizes = [one.shape[-2:] for one in logits]
        sizes = check_target_sizes(target_sizes, len(logits))
        if not return_segmentation_scores:
            return [segment(one, size)[0] for one, size in zip(logits, sizes, strict=True)]
        results = []
        for one, size in zip(logits, sizes, strict=True):
            scores = F.interpolate(one[None].float(), size=size, mode="bilinear", align_corners=False)[0]
            results.append({"segmentation": scores.argmax(dim=0), "segmentation_scores": scores})
        return [SemanticSegmentationPostProcessorOutput(data=result) for result in results]

    def to_dict(self) -> dict:
        """The fields that are saved, and where remote code finds the class."""
        return {**super().to_dict(), "auto_map": {"AutoImageProcessor": AUTO_MAP["AutoImageProcessor"]}}

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers, with the code for `trust_remote_code=True` beside the configuration."""
        saved = super().save_pretrained(save_directory, **kwargs)
        copy_code(save_directory)
        return saved
