"""What PAT reads from a frozen CLIP vision tower: a hidden state per tapped layer and dense patch embeddings."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import eager_attention_forward


@dataclass
class ClipFeatures:
    """
    Features of one batch of images; (height, width) is the patch grid.

    Args:
        taps: Layer number -> hidden state, (batch, height, width, vision_hidden_size); for the last layer
            `dense_embeds`.
        dense_embeds: Patch features in CLIP's joint space, unit length, (batch, height, width, projection_dim).
        image_embeds: CLIP's own image embedding, unit length, (batch, projection_dim), or None if not asked for.
    """

    taps: dict[int, torch.Tensor]
    dense_embeds: torch.Tensor
    image_embeds: torch.Tensor | None = None


def pad_to_patches(pixel_values: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Repeat the last row and column until (batch, 3, height, width) holds whole patches."""
    height, width = pixel_values.shape[-2:]
    pad_bottom, pad_right = -height % patch_size, -width % patch_size
    if pad_bottom == 0 and pad_right == 0:
        return pixel_values
    return F.pad(pixel_values, (0, pad_right, 0, pad_bottom), mode="replicate")


def self_self_attention(layer: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """
    The last block with query-query attention and neither residual nor feed-forward (ClearCLIP, arXiv 2407.12442).

    Image-level training leaves the plain output of the last block useless per patch; this variant needs no training.
    """
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden_states)
    batch_size, num_tokens, _ = normed.shape
    heads = (batch_size, num_tokens, -1, attention.head_dim)
    queries = attention.q_proj(normed).view(heads).transpose(1, 2)
    values = attention.v_proj(normed).view(heads).transpose(1, 2)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    attended, _ = attend(attention, queries, queries, values, None, scaling=attention.scale, dropout=0.0)
    return attention.out_proj(attended.reshape(batch_size, num_tokens, -1).contiguous())


def extract_clip_features(
    vision_model: CLIPVisionModel,
    visual_projection: nn.Linear,
    pixel_values: torch.Tensor,
    layers: set[int],
    dense_attention: str,
    with_image_embeds: bool = False,
) -> ClipFeatures:
    """
    Run the tower once, layer by layer: no hooks, so that the model pickles, compiles and exports.

    Without gradient, unless someone put a trainable adapter (LoRA) into the tower: then `dense_embeds`, from which the
    words are read, carry its gradient; what is tokenised and reconstructed does not.

    Args:
        pixel_values: (batch, 3, H, W), H and W multiples of the patch size.
        layers: Layers to keep, counted from 1. The last one is kept in its dense form.
        dense_attention: `"self_self"` or `"standard"`, see [`PatConfig`].
        with_image_embeds: Whether to compute CLIP's image embedding too.
    """
    is_adapted = torch.is_grad_enabled() and any(weight.requires_grad for weight in vision_model.parameters())
    with torch.set_grad_enabled(is_adapted):
        features = _run_tower(
            vision_model, visual_projection, pixel_values, layers, dense_attention, with_image_embeds
        )
    if is_adapted:
        features.taps = {number: tap.detach() for number, tap in features.taps.items()}
        features.image_embeds = None if features.image_embeds is None else features.image_embeds.detach()
    return features


def _run_tower(
    vision_model: CLIPVisionModel,
    visual_projection: nn.Linear,
    pixel_values: torch.Tensor,
    layers: set[int],
    dense_attention: str,
    with_image_embeds: bool,
) -> ClipFeatures:
    patch_size = vision_model.config.patch_size
    grid = (pixel_values.shape[-2] // patch_size, pixel_values.shape[-1] // patch_size)
    hidden_states = vision_model.embeddings(pixel_values, interpolate_pos_encoding=True)
    hidden_states = vision_model.pre_layrnorm(hidden_states)

    taps = {}
    *blocks, last_block = vision_model.encoder.layers
    for number, block in enumerate(blocks, start=1):
        hidden_states = block(hidden_states, None)
        if number in layers:
            taps[number] = hidden_states[:, 1:].unflatten(1, grid)

    plain = last_block(hidden_states, None) if dense_attention == "standard" or with_image_embeds else None
    dense = plain if dense_attention == "standard" else self_self_attention(last_block, hidden_states)
    dense = dense[:, 1:].unflatten(1, grid)

    def embed(states: torch.Tensor) -> torch.Tensor:
        return F.normalize(visual_projection(vision_model.post_layernorm(states)), dim=-1)

    dense_embeds = embed(dense)
    taps[len(vision_model.encoder.layers)] = dense_embeds
    return ClipFeatures(
        taps=taps,
        dense_embeds=dense_embeds,
        image_embeds=embed(plain[:, 0]) if with_image_embeds else None,
    )
