"""A checkpoint as ONNX graphs, with all that `transformers_pat.onnx` needs to run them, in one folder."""

import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

from ..layers_pat import level_grid
from ..modeling_pat import PatForSemanticSegmentation
from ..onnx import Facts
from ..processing_pat import MAX_PROMPT_TOKENS, PatProcessor

# It says for each graph that torchvision, which nothing here uses, is not installed.
logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)


class ImageGraph(nn.Module):
    """Pixels and class embeddings to logits and codes."""

    def __init__(self, model: PatForSemanticSegmentation):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor, class_embeds: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(batch, 3, H, W), whole patches, and (num_labels, projection_dim); as [`PatForSemanticSegmentation`]."""
        output = self.model.segment_images(pixel_values, class_embeds)
        assert output.codes is not None and output.logits is not None
        return output.logits, *output.codes


class CodesGraph(nn.Module):
    """Codes and class embeddings to logits; codes alone to pixels."""

    def __init__(self, model: PatForSemanticSegmentation):
        super().__init__()
        self.model = model

    def forward(self, codes: list[torch.Tensor], class_embeds: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, rows, columns) int64 per level and (num_labels, projection_dim); values are not checked."""
        pat, config = self.model.pat, self.model.config
        vectors = [codebook.lookup(level) for codebook, level in zip(pat.codebooks, codes, strict=True)]
        tokens = pat.decoder(vectors)
        if class_embeds is None:
            return pat.to_pixels(tokens)
        rows, columns = (
            side // config.cells_per_patch * config.patches_per_cell for side in tokens.shape[1:3]
        )  # whole patches
        patch_embeds = pat.to_patch_embeds(tokens, (rows, columns))
        guidance = self.model.segmenter.guide(tokens, patch_embeds)
        return self.model.segmenter(patch_embeds, class_embeds, self.model.logit_scale.exp(), guidance)


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


def export_onnx(model: PatForSemanticSegmentation, processor: PatProcessor, folder: str | Path) -> None:
    """
    Write `image.onnx`, `codes.onnx`, `text.onnx`, `pixels.onnx`, the tokenizer and the facts of preprocessing.

    Batch, image size and number of labels are free in every graph; weights are float32.

    Args:
        model: In float32.
        processor: The checkpoint's.
        folder: Made if it is missing. It appears when all is written.

    Raises:
        ValueError: If the folder exists and has something else in it.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "image.onnx").is_file():
        raise ValueError(f"{str(folder)!r} has other files in it: choose a new folder")
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model = model.float().eval()
    for name, graph, inputs, dynamic in _graphs(model):
        _export(graph, inputs, dynamic, partial / f"{name}.onnx")
    processor.tokenizer.backend_tokenizer.save(str(partial / "tokenizer.json"))
    _facts(model, processor).save(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def _graphs(model: PatForSemanticSegmentation) -> Iterator[tuple[str, nn.Module, tuple, tuple]]:
    """Name, module, example inputs and free dimensions. No example dimension is 0, 1 or equal to another by chance."""
    config, free = model.config, Dim.AUTO
    patch, grid = config.vision_config.patch_size, (11, 13)
    rows, columns = (patch * Dim(name, min=2, max=1024) for name in ("rows", "columns"))
    class_embeds = nn.functional.normalize(torch.randn(5, config.projection_dim), dim=-1)
    codes = [torch.zeros(2, *level_grid(grid, stride), dtype=torch.int64) for stride in config.level_strides]
    free_codes = [{0: free, 1: free, 2: free} for _ in codes]
    pixel_values = torch.randn(2, 3, *(patch * side for side in grid))
    yield "image", ImageGraph(model), (pixel_values, class_embeds), ({0: free, 2: rows, 3: columns}, {0: free})
    yield "codes", CodesGraph(model), (codes, class_embeds), (free_codes, {0: free})
    yield "pixels", CodesGraph(model), (codes,), (free_codes,)
    input_ids = torch.full((3, 7), model.config.text_config.eos_token_id)
    yield "text", TextGraph(model), (input_ids,), ({0: free, 1: free},)


@torch.no_grad()
def _export(graph: nn.Module, inputs: tuple, dynamic: tuple, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about its own internals
        # Not optimised: onnxscript's pass fails on the free sizes, and ONNX Runtime optimises on loading anyway.
        program = torch.onnx.export(
            graph.eval(), inputs, dynamo=True, dynamic_shapes=dynamic, optimize=False, verbose=False
        )
        assert program is not None
        program.save(path)


def _facts(model: PatForSemanticSegmentation, processor: PatProcessor) -> Facts:
    images = processor.image_processor
    return Facts(
        size={name: value for name, value in dict(images.size).items() if value},
        size_divisor=images.size_divisor,
        resample=int(images.resample),
        image_mean=list(images.image_mean),
        image_std=list(images.image_std),
        prompt_templates=processor.prompt_templates,
        pad_token_id=processor.tokenizer.pad_token_id,
        max_prompt_tokens=min(processor.tokenizer.model_max_length, MAX_PROMPT_TOKENS),
        codebook_sizes=list(model.config.codebook_sizes),
        background_embed=model.segmenter.background_embed.tolist(),
    )
