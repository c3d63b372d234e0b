"""How a model turns an image into class logits: from pixels, from codes alone, or as the training-free baseline."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from ..data.base import SegmentationDataset
from ..modeling_pat import PatForSemanticSegmentation
from ..outputs_pat import PatSegmentationOutput
from ..processing_pat import PatProcessor
from ..prompts_pat import BACKGROUND

if TYPE_CHECKING:
    from ..archive import TokenArchive, TokenizedPhoto

# Arguments: the model, pixel values (1, 3, H, W) and class embeddings (num_labels, dim).
Predictor = Callable[[PatForSemanticSegmentation, torch.Tensor, torch.Tensor], PatSegmentationOutput]
Source = Literal["pixels", "codes", "training_free"]


def from_pixels(
    model: PatForSemanticSegmentation, pixel_values: torch.Tensor, text_embeds: torch.Tensor
) -> PatSegmentationOutput:
    """The model's forward pass."""
    return model(pixel_values=pixel_values, text_embeds=text_embeds)


def from_codes(
    model: PatForSemanticSegmentation,
    pixel_values: torch.Tensor,
    text_embeds: torch.Tensor,
    num_levels: int | None = None,
) -> PatSegmentationOutput:
    """Encode the image, keep the codes of the coarsest `num_levels` levels (default: all), and segment those."""
    height, width = pixel_values.shape[-2:]
    codes = model.pat.encode(pixel_values).codes[:num_levels]
    return PatSegmentationOutput(logits=model.segment_codes(codes, text_embeds, (height, width)))


def training_free(
    model: PatForSemanticSegmentation, pixel_values: torch.Tensor, text_embeds: torch.Tensor
) -> PatSegmentationOutput:
    """The training-free baseline: cosine similarity of CLIP's dense patch embeddings and the class embeddings."""
    dense = model.pat.extract_features(pixel_values).dense_embeds
    return PatSegmentationOutput(logits=model.logit_scale.exp() * (dense @ text_embeds.T).permute(0, 3, 1, 2))


class StoredCodes:
    """
    Segments from the codes that an archive has of a photo; the photo's pixels are not used.

    Args:
        archive: Made with the model; its photos are found by their file name.

    Raises:
        ValueError: If two photos of the archive have the same file name.
    """

    def __init__(self, archive: "TokenArchive"):
        self.archive = archive
        self._photos: dict[str, TokenizedPhoto] = {}
        for photo in archive:
            if self._photos.setdefault(Path(photo.source).name, photo) is not photo:
                raise ValueError(f"{archive.path} has two photos called {Path(photo.source).name}")

    def of(self, file_name: str) -> Predictor:
        """The predictor of one photo; `ValueError` if the archive does not have it."""
        if file_name not in self._photos:
            raise ValueError(f"{self.archive.path} has no photo {file_name}: tokenize the data set's photos first")
        photo = self._photos[file_name]

        def from_archive(model, pixel_values, text_embeds) -> PatSegmentationOutput:
            return PatSegmentationOutput(logits=model.segment_codes(photo.to_tensors(), text_embeds, photo.pixels))

        return from_archive


PREDICTORS: dict[str, Predictor] = {"pixels": from_pixels, "codes": from_codes, "training_free": training_free}


class ClassPredictor:
    """
    From an image to a map of a data set's classes. The class "background" is the learned background, no word.

    Args:
        model: The model, in eval mode.
        processor: Its processor.
        dataset: Its classes are predicted.
        prompts: Labels to use instead of `dataset.prompts`, as many.
        source: Name of a predictor, your own function, or an archive's [`StoredCodes`].
    """

    @torch.no_grad()
    def __init__(
        self,
        model: PatForSemanticSegmentation,
        processor: PatProcessor,
        dataset: SegmentationDataset,
        prompts: list[str] | None = None,
        source: Source | Predictor | StoredCodes = "pixels",
    ):
        self.model, self.processor = model, processor
        self.source = PREDICTORS[source] if isinstance(source, str) else source
        words = prompts or dataset.prompts
        self.text_embeds = model.get_text_embeds(words, processor)
        if source != "training_free":
            is_background = torch.tensor([word.lower() == BACKGROUND for word in words], device=model.device)
            self.text_embeds = self.text_embeds.where(~is_background[:, None], model.segmenter.background_embed)
        self.prompt_classes = torch.tensor(dataset.prompt_classes, device=model.device)

    @torch.no_grad()
    def __call__(self, pixel_values: torch.Tensor, size: tuple[int, int], file_name: str = "") -> torch.Tensor:
        """
        Predict the class of every pixel.

        Args:
            pixel_values: (1, 3, H, W).
            size: Height and width of the result.
            file_name: Of the photo, by which [`StoredCodes`] finds it.

        Returns:
            (height, width) int64 indices into the data set's `names`.
        """
        predict = self.source.of(file_name) if isinstance(self.source, StoredCodes) else self.source
        outputs = predict(self.model, pixel_values.to(self.model.device), self.text_embeds)
        (prompt_map,) = self.processor.post_process_semantic_segmentation(outputs, target_sizes=[size])
        return self.prompt_classes[prompt_map]
