"""Guidance: what the fused codes add to the segmenter, for every word alike. All of it starts at zero."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_pat import PatConfig
from .layers_pat import ZeroLinear, in_parts, to_patch_grid, upsample


@dataclass
class Guidance:
    """
    What is added to the segmenter's states, for every label alike.

    (height, width) is the patch grid, (rows, columns) that of the logits.

    Args:
        start: To the features of every label, (batch, height, width, segmenter_channels).
        affinity: To the queries and keys, (batch, height, width, 2 * segmenter_channels).
        blocks: To the feed-forward of each block, (batch, height, width, segmenter_channels) each.
        upsampler: On the way up, (batch, rows, columns, segmenter_channels // 2).
        residual: To the dense embeddings, (batch, rows, columns, projection_dim), or None.
    """

    start: torch.Tensor
    affinity: torch.Tensor
    blocks: list[torch.Tensor]
    upsampler: torch.Tensor
    residual: torch.Tensor | None


class PatEmbeddingResidual(nn.Module):
    """
    A correction of the dense embeddings, at the stride of the logits.

    Its norm stays below `config.embedding_residual_bound`, and `losses_pat.residual_loss` keeps it small where nothing
    is labelled, so that it can't learn the words of the masks at the cost of all others (our choice; docs/ablation.md
    holds words out to judge it).
    """

    def __init__(self, config: PatConfig):
        super().__init__()
        self.bound = config.embedding_residual_bound
        self.expand = nn.Linear(config.hidden_size, 2 * config.hidden_size)
        self.contract = ZeroLinear(2 * config.hidden_size, config.projection_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, rows, columns, hidden_size) to (batch, rows, columns, projection_dim)."""
        return in_parts(self._correct, tokens, growth=2)

    def _correct(self, tokens: torch.Tensor) -> torch.Tensor:
        residual = self.contract(F.gelu(self.expand(tokens)))
        norm = torch.linalg.vector_norm(residual, dim=-1, keepdim=True, dtype=torch.float32)
        return residual * (1 + (norm / self.bound).square()).rsqrt().to(residual.dtype)


class PatGuidance(nn.Module):
    """
    Projects the decoded codes to all places of the segmenter that they guide.

    With `config.guidance_source="dense"`, CLIP's own patch embeddings take the codes' place, for comparison.
    """

    def __init__(self, config: PatConfig):
        super().__init__()
        hidden_size, channels = config.hidden_size, config.segmenter_channels
        self.cells_per_patch, self.patches_per_cell = config.cells_per_patch, config.patches_per_cell
        self.from_dense = None
        if config.guidance_source == "dense":
            self.from_dense = nn.Sequential(nn.Linear(config.projection_dim, hidden_size), nn.LayerNorm(hidden_size))
        self.start = ZeroLinear(hidden_size, channels)
        self.affinity = ZeroLinear(hidden_size, 2 * channels)
        self.blocks = nn.ModuleList([ZeroLinear(hidden_size, channels) for _ in range(config.num_segmenter_blocks)])
        self.upsampler = ZeroLinear(hidden_size, channels // 2)
        self.residual = PatEmbeddingResidual(config) if config.embedding_residual_bound > 0 else None

    def forward(self, tokens: torch.Tensor, dense_embeds: torch.Tensor) -> Guidance:
        """
        Compute what is added where.

        Args:
            tokens: The decoded codes, (batch, rows, columns, hidden_size) on the finest level's grid.
            dense_embeds: (batch, height, width, projection_dim).
        """
        if self.from_dense is not None:
            coarse = self.from_dense(dense_embeds)
            fine = upsample(coarse.permute(0, 3, 1, 2), self.cells_per_patch).permute(0, 2, 3, 1)
        else:
            height, width = dense_embeds.shape[1:3]
            coarse = to_patch_grid(tokens, self.cells_per_patch, self.patches_per_cell, (height, width))
            fine = tokens if self.patches_per_cell == 1 else coarse
        return Guidance(
            start=self.start(coarse),
            affinity=self.affinity(coarse),
            blocks=[project(coarse) for project in self.blocks],
            upsampler=self.upsampler(fine),
            residual=None if self.residual is None else self.residual(fine),
        )
