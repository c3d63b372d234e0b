"""Outputs of the models."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class PatEncoderOutput(ModelOutput):
    """
    Output of [`PatModel.encode`]. Levels go from coarse to fine.

    Args:
        codes (`tuple[torch.LongTensor]`): Codes of each level, (batch, rows, columns), from 0 to codebook size - 1.
    """

    codes: tuple[torch.LongTensor, ...]


@dataclass
class PatModelOutput(ModelOutput):
    """
    Output of [`PatModel`].

    Args:
        loss (`torch.Tensor`): Weighted sum of the three parts below, a scalar.
        reconstruction (`torch.Tensor`): (batch, 3, H, W), in the range of `pixel_values`.
        codes (`tuple[torch.LongTensor]`): Codes of each level, (batch, rows, columns).
        patch_embeds (`torch.Tensor`): CLIP's patch embeddings as decoded from the codes, unit length,
            (batch, height, width, projection_dim) on the patch grid.
        image_embeds (`torch.Tensor`): CLIP's image embedding as decoded from the codes, unit length,
            (batch, projection_dim).
        reconstruction_loss (`torch.Tensor`): Mean squared error of the pixels.
        feature_loss (`torch.Tensor`): 1 - cosine to CLIP's own embeddings, patches and image, 0 to 4.
        commitment_loss (`torch.Tensor`): Squared distance of features to their codes, mean over levels, 0 to 4.
        codebook_usage (`torch.Tensor`): (num_levels,), share of the codes that occur in this batch, 0 to 1; only in
            training mode. Otherwise `model.codebooks.statistics(codes)` computes both.
        codebook_perplexity (`torch.Tensor`): (num_levels,), exponential of the entropy of the codes in this batch;
            only in training mode.
        hidden_states (`tuple[torch.Tensor]`): With `output_hidden_states=True`, the vision tower's input embeddings
            and the output of each block, (batch, 1 + num_patches, vision_hidden_size).
        attentions (`tuple[torch.Tensor]`): With `output_attentions=True` and eager attention, the weights of each
            block of the vision tower, (batch, heads, 1 + num_patches, 1 + num_patches).
    """

    loss: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    codes: tuple[torch.LongTensor, ...] | None = None
    patch_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    feature_loss: torch.Tensor | None = None
    commitment_loss: torch.Tensor | None = None
    codebook_usage: torch.Tensor | None = None
    codebook_perplexity: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class PatSegmentationOutput(ModelOutput):
    """
    Output of [`PatForSemanticSegmentation`].

    Args:
        loss (`torch.Tensor`): Weighted sum of the six parts below; only with `labels`.
        logits (`torch.Tensor`): (batch, num_labels, h, w). Each map covers exactly its image; h and w are the image's
            size over the stride of the finest level (half a patch by default).
        logits_sizes (`torch.LongTensor`): (batch, 2), valid rows and columns of each map when `pixel_mask` marked
            images of different sizes, else None. Maps are zero beyond.
        codes (`tuple[torch.LongTensor]`): Codes of each level, (batch, rows, columns); None for mixed sizes.
        segmentation_loss, code_segmentation_loss, residual_loss, reconstruction_loss, feature_loss, commitment_loss
            (`torch.Tensor`): Parts of the loss; the second is that of segmentation from the codes alone, the third
            keeps the embedding residual small where nothing is labelled; both are 0 for the baseline.
        codebook_usage, codebook_perplexity (`torch.Tensor`): See [`PatModelOutput`]; only with `labels` in training
            mode.
        hidden_states, attentions (`tuple[torch.Tensor]`): See [`PatModelOutput`]; None for mixed sizes.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    logits_sizes: torch.LongTensor | None = None
    codes: tuple[torch.LongTensor, ...] | None = None
    segmentation_loss: torch.Tensor | None = None
    code_segmentation_loss: torch.Tensor | None = None
    residual_loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    feature_loss: torch.Tensor | None = None
    commitment_loss: torch.Tensor | None = None
    codebook_usage: torch.Tensor | None = None
    codebook_perplexity: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


# Fields of a forward with labels that are means over the batch.
LOSS_FIELDS = (
    "loss",
    "segmentation_loss",
    "code_segmentation_loss",
    "residual_loss",
    "reconstruction_loss",
    "feature_loss",
    "commitment_loss",
    "codebook_usage",
    "codebook_perplexity",
)
