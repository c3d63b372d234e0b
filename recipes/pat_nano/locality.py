"""A start for the vision tower that knows what "next to" means.

A vision transformer trained from scratch on few photos spends long on learning locality. Here the position embedding
starts as sines and cosines, and the query and key maps of each head start as a rotation of those: head by head, every
patch attends to the patch at a fixed offset, as the taps of a convolution would. All of it is trained on.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import CLIPVisionModel

WAVELENGTHS = (4.0, 56.0)  # in cells of the position grid
NEIGHBOURS = [(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)]
STRENGTH = 2.0


def frequencies(count: int) -> torch.Tensor:
    low, high = (torch.tensor(2 * torch.pi / wave).log() for wave in WAVELENGTHS)
    return torch.linspace(low, high, count).exp()


def position_table(side: int, dim: int) -> torch.Tensor:
    """(side * side, dim): [sin y, cos y, sin x, cos x], dim/4 frequencies each."""
    angles = torch.arange(side)[:, None] * frequencies(dim // 4)
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = waves[:, None].expand(side, side, -1)
    columns = waves[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, dim)


def offset_maps(dim: int, heads: int, head: int, offset: tuple[float, float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key maps (head_dim, dim) whose product is largest where the key lies `offset` cells from the query."""
    quarter = dim // 4
    chosen = torch.arange(head, quarter, heads)[: dim // heads // 4]
    query, key = [], []
    for axis, distance in enumerate(offset):
        turn = frequencies(quarter)[chosen] * distance
        sine = torch.zeros(len(chosen), dim)
        cosine = torch.zeros(len(chosen), dim)
        rows = torch.arange(len(chosen))
        sine[rows, 2 * axis * quarter + chosen] = 1
        cosine[rows, (2 * axis + 1) * quarter + chosen] = 1
        query += [sine, cosine]
        key += [sine * turn.cos()[:, None] - cosine * turn.sin()[:, None]]
        key += [cosine * turn.cos()[:, None] + sine * turn.sin()[:, None]]
    return torch.cat(query), torch.cat(key)


@torch.no_grad()
def make_local(vision: CLIPVisionModel, seed: int = 0) -> None:
    """Starts `vision` with sine-cosine positions and heads that look at fixed offsets."""
    config = vision.config
    generator = torch.Generator().manual_seed(seed)
    side = config.image_size // config.patch_size
    vision.embeddings.position_embedding.weight[1:] = position_table(side, config.hidden_size)
    nn.init.normal_(vision.embeddings.patch_embedding.weight, std=0.02, generator=generator)
    heads = config.num_attention_heads
    for layer in vision.encoder.layers:
        wide = ((torch.rand(heads - len(NEIGHBOURS), 2, generator=generator) - 0.5) * 5).tolist()
        for head, offset in enumerate(NEIGHBOURS + [tuple(pair) for pair in wide]):
            query, key = offset_maps(config.hidden_size, heads, head, offset)
            rows = slice(head * len(query), (head + 1) * len(query))
            layer.self_attn.q_proj.weight[rows] += STRENGTH * query
            layer.self_attn.k_proj.weight[rows] += STRENGTH * key
