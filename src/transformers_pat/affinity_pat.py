"""Which places of an image belong together: attention from patches to cells, the same for every label."""

from dataclasses import dataclass

import torch
from torch import nn

from .configuration_pat import PatConfig
from .layers_pat import average_pool


@dataclass
class Affinity:
    """
    Attention of an image's patches to its cells of `PatAffinity.key_stride` × `PatAffinity.key_stride` patches.

    The weights of a large photo would be the largest matrices of all, so they are computed where they are used, for
    as many patches as asked for.

    Args:
        queries: Scaled, (batch, num_heads, number of patches, channels).
        keys: (batch, num_heads, number of cells, channels).
        slope: By how much a weight's logarithm falls per patch of distance, (num_heads,).
        patches, cells: Their centres, in patches from the upper left corner, (number, 2).
    """

    queries: torch.Tensor
    keys: torch.Tensor
    slope: torch.Tensor
    patches: torch.Tensor
    cells: torch.Tensor

    def attend(self, values: torch.Tensor, part: slice) -> torch.Tensor:
        """
        Mean of the cells' values for some patches, by the weights of each head.

        Args:
            values: (batch, num_heads, number of cells, any number).
            part: Which patches.

        Returns:
            (batch, num_heads, number of these patches, any number).
        """
        rows, columns = (self.patches[part, None, axis] - self.cells[:, axis] for axis in (0, 1))
        distances = (rows.square() + columns.square()).sqrt().to(values.dtype)
        scores = self.queries[:, :, part] @ self.keys.mT - self.slope[:, None, None] * distances
        return scores.softmax(-1) @ values


class PatAffinity(nn.Module):
    """
    Queries and keys of the attention that is the same for every label.

    Every patch attends to all cells of `key_stride` × `key_stride` patches, a quarter of the cost of all patches.
    Queries and keys come from the dense embeddings and from the guidance. A bias that falls with the distance has a
    learnt slope per head (ALiBi, arXiv 2108.12409, in two dimensions).
    """

    key_stride = 2

    def __init__(self, config: PatConfig):
        super().__init__()
        self.num_heads = config.num_segmenter_heads
        self.project = nn.Linear(config.projection_dim, 2 * config.segmenter_channels)
        self.slope = nn.Parameter(self.initial_slopes())

    def initial_slopes(self) -> torch.Tensor:
        """A half per patch for the first head, for each other half of the one before (our choice)."""
        return torch.full((self.num_heads,), 0.5).cumprod(0)

    def forward(self, dense_embeds: torch.Tensor, guidance: torch.Tensor | None) -> Affinity:
        """
        Compute queries and keys of an image's patches.

        Args:
            dense_embeds: (batch, height, width, projection_dim).
            guidance: (batch, height, width, 2 * segmenter_channels), or None.
        """
        projected = self.project(dense_embeds)
        if guidance is not None:
            projected = projected + guidance
        queries, keys = projected.chunk(2, dim=-1)
        keys = average_pool(keys, self.key_stride)
        patches = self._centres(queries.shape[1:3], 1)
        cells = self._centres(keys.shape[1:3], self.key_stride)
        queries, keys = (
            states.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for states in (queries, keys)
        )
        return Affinity(queries * queries.shape[-1] ** -0.5, keys, self.slope, patches, cells)

    def _centres(self, grid: torch.Size, stride: int) -> torch.Tensor:
        """Rows and columns of the centres of cells of `stride` patches: (number of cells, 2)."""
        rows, columns = (stride * torch.arange(side, device=self.slope.device) + (stride - 1) / 2 for side in grid)
        return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)
