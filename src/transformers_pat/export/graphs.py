"""A checkpoint as ONNX graphs, with all that `transformers_pat.onnx` needs to run them, in one folder."""

import logging
import os
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import nn
from torch.export import Dim

from ..layers_pat import level_grid
from ..modeling_pat import PatForSemanticSegmentation, PatModel
from ..onnx import Facts
from ..processing_pat import MAX_PROMPT_TOKENS, PatProcessor
from ..prompts_pat import resolve_templates
from .quantization import quantize_onnx

# It says for each graph that torchvision, which nothing here uses, is not installed.
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)


class ImageGraph(nn.Module):
    """Pixels to dense embeddings and codes."""

    def __init__(self, pat: PatModel):
        super().__init__()
        self.pat = pat

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(batch, 3, H, W), whole patches, to (batch, height, width, projection_dim) and the codes of each level."""
        features = self.pat.extract_features(pixel_values)
        return features.dense_embeds, *self.pat.tokenize(features).codes


class CodesGraph(nn.Module):
    """Codes to the dense embeddings and pixels that they stand for."""

    def __init__(self, pat: PatModel):
        super().__init__()
        self.pat = pat

    def forward(self, codes: list[torch.Tensor], keep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, rows, columns) int64 per level, not checked, and (num_levels,) bool: the levels to decode."""
        tokens, config = decode_tokens(self.pat, codes, keep), self.pat.config
        rows, columns = (
            side // config.cells_per_patch * config.patches_per_cell for side in tokens.shape[1:3]
        )  # whole patches
        return self.pat.to_patch_embeds(tokens, (rows, columns)), self.pat.to_pixels(tokens)


class SegmentGraph(nn.Module):
    """Dense embeddings and codes of an image, and class embeddings, to logits."""

    def __init__(self, model: PatForSemanticSegmentation):
        super().__init__()
        self.model = model

    def forward(
        self, dense_embeds: torch.Tensor, codes: list[torch.Tensor], class_embeds: torch.Tensor
    ) -> torch.Tensor:
        """As the other graphs give them, and (num_labels, projection_dim)."""
        guidance = self.model.segmenter.guide(decode_tokens(self.model.pat, codes), dense_embeds)
        return self.model.segmenter(dense_embeds, class_embeds, self.model.logit_scale.exp(), guidance)


class TextGraph(nn.Module):
    """Token ids to prompt embeddings."""

    def __init__(self, model: PatForSemanticSegmentation):
        super().__init__()
        self.text_model, self.text_projection = model.text_model, model.text_projection

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(num_prompts, length) int64 to (num_prompts, projection_dim), unit length."""
        # Attention is causal and reads at the end of the text: padding after it needs no mask.
        pooled = self.text_model(input_ids=input_ids, return_dict=True).pooler_output
        return nn.functional.normalize(self.text_projection(pooled), dim=-1)


def decode_tokens(pat: PatModel, codes: list[torch.Tensor], keep: torch.Tensor | None = None) -> torch.Tensor:
    """What the shared decoder makes of all levels' codes, or of those to `keep`; their values are not checked."""
    vectors = [codebook.lookup(level) for codebook, level in zip(pat.codebooks, codes, strict=True)]
    return pat.decoder(vectors, None if keep is None else keep.expand(codes[0].shape[0], -1))


def export_onnx(
    model: PatForSemanticSegmentation,
    processor: PatProcessor,
    folder: str | Path,
    int8: Literal["dynamic", "static"] | None = None,
    photos: Sequence[str | Path | Image.Image] = (),
) -> None:
    """
    Write `image.onnx`, `codes.onnx`, `segment.onnx`, `text.onnx`, the tokenizer and the facts of preprocessing.

    Batch, image size and number of labels are free in every graph; weights are float32 unless `int8` is chosen.

    Args:
        model: In float32.
        processor: The checkpoint's.
        folder: Made if it is missing. It appears when all is written.
        int8: See [`quantize_onnx`].
        photos: For `"static"`: a few photos like those that will be segmented, paths or PIL images.

    Raises:
        ValueError: If the folder exists and has something else in it, or photos are missing or can't be read.
    """
    if (int8 == "static") != bool(photos):
        raise ValueError('int8="static" needs photos to find the range of activations, and nothing else does')
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "image.onnx").is_file():
        raise ValueError(f"{str(folder)!r} has other files in it: choose a new folder")
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model = model.float().eval()
    for graph in _graphs(model):
        graph.export(partial)
    processor.tokenizer.backend_tokenizer.save(str(partial / "tokenizer.json"))
    _facts(model, processor).save(partial)
    if int8 is not None:
        quantize_onnx(partial, photos)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


@dataclass
class _Graph:
    """A graph to export: example inputs, which of their dimensions are free, and names."""

    name: str
    module: nn.Module
    inputs: tuple
    dynamic: tuple
    input_names: list[str]
    output_names: list[str]

    @torch.no_grad()
    def export(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, about its own internals
            # Not optimised: onnxscript's pass fails on the free sizes, and ONNX Runtime optimises on loading anyway.
            program = torch.onnx.export(
                self.module.eval(),
                self.inputs,
                input_names=self.input_names,
                output_names=self.output_names,
                dynamic_shapes=self.dynamic,
                dynamo=True,
                optimize=False,
                verbose=False,
            )
        assert program is not None
        program.save(folder / f"{self.name}.onnx")


def _graphs(model: PatForSemanticSegmentation) -> list[_Graph]:
    """No dimension of the example inputs is 0, 1 or equal to another by chance."""
    config, free = model.config, Dim.AUTO
    patch, grid = config.vision_config.patch_size, (11, 13)
    rows, columns = (patch * Dim(name, min=2, max=1024) for name in ("rows", "columns"))
    pixel_values = torch.randn(2, 3, *(patch * side for side in grid))
    dense_embeds = nn.functional.normalize(torch.randn(2, *grid, config.projection_dim), dim=-1)
    codes = [torch.zeros(2, *level_grid(grid, stride), dtype=torch.int64) for stride in config.level_strides]
    class_embeds = nn.functional.normalize(torch.randn(5, config.projection_dim), dim=-1)
    input_ids = torch.full((3, 7), config.text_config.eos_token_id)
    free_grid, names = {0: free, 1: free, 2: free}, [f"codes_{level}" for level in range(config.num_levels)]
    free_codes = [free_grid for _ in codes]
    return [
        _Graph("image", ImageGraph(model.pat), (pixel_values,), ({0: free, 2: rows, 3: columns},), ["pixel_values"],
               ["dense_embeds", *names]),
        _Graph("codes", CodesGraph(model.pat), (codes, torch.ones(len(codes), dtype=torch.bool)), (free_codes, {}),
               [*names, "keep"], ["dense_embeds", "pixel_values"]),
        _Graph("segment", SegmentGraph(model), (dense_embeds, codes, class_embeds),
               (free_grid, free_codes, {0: free}), ["dense_embeds", *names, "class_embeds"], ["logits"]),
        _Graph("text", TextGraph(model), (input_ids,), ({0: free, 1: free},), ["input_ids"], ["prompt_embeds"]),
    ]  # fmt: skip


def _facts(model: PatForSemanticSegmentation, processor: PatProcessor) -> Facts:
    images = processor.image_processor
    return Facts(
        size={name: value for name, value in dict(images.size).items() if value},
        size_divisor=images.size_divisor,
        resample=int(images.resample),
        image_mean=list(images.image_mean),
        image_std=list(images.image_std),
        prompt_templates=list(resolve_templates(processor.prompt_templates)),
        pad_token_id=processor.tokenizer.pad_token_id,
        max_prompt_tokens=min(processor.tokenizer.model_max_length, MAX_PROMPT_TOKENS),
        codebook_sizes=list(model.config.codebook_sizes),
        background_embed=model.segmenter.background_embed.tolist(),
    )
