"""What PAT reads from a frozen CLIP vision tower: hidden states of tapped layers and dense patch embeddings."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPVisionModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import eager_attention_forward

from .layers_pat import in_parts


@dataclass
class ClipFeatures:
    """
    Features of one batch of images; (height, width) is the patch grid.

    Args:
        taps: Layer number -> hidden state, (batch, height, width, vision_hidden_size); for the last layer
            `dense_embeds`.
        dense_embeds: Patch features in CLIP's joint space, unit length, (batch, height, width, projection_dim).
        image_embeds: CLIP's own image embedding, unit length, (batch, projection_dim), or None if not requested.
        hidden_states: If requested, the tower's input embeddings and the output of every block,
            (batch, 1 + height * width, vision_hidden_size) each.
        attentions: If requested, the attention weights of every block, (batch, heads, tokens, tokens) each.
    """

    taps: dict[int, torch.Tensor]
    dense_embeds: torch.Tensor
    image_embeds: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


def self_self_attention(
    layer: nn.Module, hidden_states: torch.Tensor, attentions: list[torch.Tensor | None] | None = None
) -> torch.Tensor:
    """
    Run the last block with query-query attention and without residual and feed-forward.

    ClearCLIP (arXiv 2407.12442). Image-level training leaves the plain output of the last block useless per patch;
    this variant needs no training. Eager attention appends its weights to `attentions`.
    """
    attention = layer.self_attn
    normed = layer.layer_norm1(hidden_states)
    batch_size, num_tokens, _ = normed.shape
    heads = (batch_size, num_tokens, -1, attention.head_dim)
    queries = attention.q_proj(normed).view(heads).transpose(1, 2)
    values = attention.v_proj(normed).view(heads).transpose(1, 2)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    attended, weights = attend(attention, queries, queries, values, None, scaling=attention.scale, dropout=0.0)
    if attentions is not None:
        attentions.append(weights)
    return attention.out_proj(attended.reshape(batch_size, num_tokens, -1).contiguous())


def extract_clip_features(
    vision_model: CLIPVisionModel,
    visual_projection: nn.Linear,
    pixel_values: torch.Tensor,
    layers: set[int],
    dense_attention: str,
    with_image_embeds: bool = False,
    output_hidden_states: bool | list[int] = False,
    output_attentions: bool = False,
) -> ClipFeatures:
    """
    Run the tower once, layer by layer: no hooks, so that the model pickles, compiles and exports.

    Without gradient, unless the tower has a trainable adapter (LoRA): then `dense_embeds`, which are compared with
    words, carry its gradient; what is quantised and reconstructed does not.

    Args:
        vision_model: CLIP's vision tower.
        visual_projection: Its projection to the joint space.
        pixel_values: (batch, 3, H, W), H and W multiples of the patch size.
        layers: Layers to keep, counted from 1. The last one is kept in its dense form.
        dense_attention: `"self_self"` or `"standard"`, see [`PatConfig`].
        with_image_embeds: Whether to compute CLIP's image embedding too.
        output_hidden_states: Whether to return the hidden states of all blocks, or which, counted from the input
            embeddings; the others are None.
        output_attentions: Whether to return the attention weights of all blocks, which needs eager attention.
    """
    is_adapted = torch.is_grad_enabled() and any(weight.requires_grad for weight in vision_model.parameters())
    with torch.set_grad_enabled(is_adapted):
        hidden_states = vision_model.pre_layrnorm(vision_model.embeddings(pixel_values, interpolate_pos_encoding=True))
        states = {0: hidden_states} if output_hidden_states else {}
        attentions: list[torch.Tensor | None] | None = [] if output_attentions else None
        *blocks, last_block = vision_model.encoder.layers
        for number, block in enumerate(blocks, start=1):
            hidden_states = _run_block(block, hidden_states, attentions)
            if output_hidden_states or number in layers:
                states[number] = hidden_states

        # The last block as it was trained, for the image embedding, and in the form that suits patches.
        if dense_attention == "standard":
            dense = plain = _run_block(last_block, hidden_states, attentions)
        else:
            dense = self_self_attention(last_block, hidden_states, attentions)
            plain = _run_block(last_block, hidden_states, None) if with_image_embeds or output_hidden_states else dense
        grid = [side // vision_model.config.patch_size for side in pixel_values.shape[-2:]]
        patches = dense[:, 1:].unflatten(1, grid)
        dense_embeds = _embed(vision_model, visual_projection, patches)
        image_embeds = _embed(vision_model, visual_projection, plain[:, 0]) if with_image_embeds else None

    taps = {number: states[number][:, 1:].unflatten(1, grid) for number in layers if number <= len(blocks)}
    taps[len(blocks) + 1] = dense_embeds
    if is_adapted:
        taps = {number: tap.detach() for number, tap in taps.items()}
        image_embeds = None if image_embeds is None else image_embeds.detach()
    selected = _select([*states.values(), plain], output_hidden_states) if output_hidden_states else None
    found = None if attentions is None else tuple(weights for weights in attentions if weights is not None)
    return ClipFeatures(taps, dense_embeds, image_embeds, selected, found)


def _run_block(
    block: nn.Module, hidden_states: torch.Tensor, attentions: list[torch.Tensor | None] | None
) -> torch.Tensor:
    """One block of CLIP; appends its attention weights to `attentions`, which the block itself does not return."""
    # On an accelerator as a whole: accelerate's hooks may sit on the block.
    if attentions is None and hidden_states.device.type != "cpu":
        return block(hidden_states, None)
    attended, weights = block.self_attn(block.layer_norm1(hidden_states), None)
    if attentions is not None:
        attentions.append(weights)
    hidden_states = hidden_states + attended
    return in_parts(lambda part: part + block.mlp(block.layer_norm2(part)), hidden_states, growth=4)


def _select(states: list[torch.Tensor], chosen: bool | list[int]) -> tuple[torch.Tensor | None, ...]:
    if isinstance(chosen, bool):
        return tuple(states)
    indices = {index % len(states) for index in chosen if -len(states) <= index < len(states)}
    return tuple(state if index in indices else None for index, state in enumerate(states))


def _embed(vision_model: CLIPVisionModel, visual_projection: nn.Linear, states: torch.Tensor) -> torch.Tensor:
    return F.normalize(visual_projection(vision_model.post_layernorm(states)), dim=-1)


class FrozenClipMixin(nn.Module):
    """Keeps CLIP's towers out of training and in eval mode, for a model that holds them."""

    # Top-level names of what comes from CLIP, as CLIPModel itself calls them.
    clip_modules = ("vision_model", "visual_projection", "text_model", "text_projection", "logit_scale")

    def freeze_clip(self) -> None:
        """Exclude CLIP's weights from training, in eval mode. Called on construction and after loading."""
        for name, parameter in self.named_parameters():
            if self.is_clip_key(name):
                parameter.requires_grad_(False)
        self.train(self.training)

    @classmethod
    def is_clip_key(cls, name: str) -> bool:
        """Whether a parameter or buffer of this model belongs to the frozen CLIP."""
        return name.removeprefix("pat.").split(".")[0] in cls.clip_modules

    def train(self, mode: bool = True):
        """Set training mode for PAT's own modules; CLIP stays in eval mode."""
        super().train(mode)
        for name, module in self.named_children():
            if name in self.clip_modules:
                module.eval()
        return self

    @property
    def num_trainable_parameters(self) -> int:
        """Number of parameters that training changes: PAT's own, not CLIP's."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)
