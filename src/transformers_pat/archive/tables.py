"""A table per level that says what each code looks like in CLIP's joint space: rank photos without any network."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..layers_pat import repeat_cells
from ..modeling_pat import PatModel
from .shards import ArchiveInfo, TokenizedPhoto

SWEEPS = 3
# What `CodeTables.scores` returns.
Scores = tuple[list[torch.Tensor], torch.Tensor]


@dataclass
class CodeTables:
    """
    The patch embeddings that a model decodes, as a sum over levels of one vector per code (our choice).

    Fitted to decoded photos by least squares, one level after the other (backfitting). Codes that occur in none of
    them count as the mean.

    Args:
        embeds: (codebook_size, projection_dim) of each level, coarsest first.
        mean: (projection_dim,), the mean of all patches.
        level_strides: Stride of each level in patches.
    """

    embeds: list[torch.Tensor]
    mean: torch.Tensor
    level_strides: tuple[float, ...]

    @classmethod
    @torch.inference_mode()
    def fit(cls, model: PatModel, info: ArchiveInfo, photos: Iterable[TokenizedPhoto]) -> "CodeTables":
        """
        Decode some photos' codes and fit the tables to what comes out; a few hundred are enough.

        Raises:
            ValueError: If there are no photos.
        """
        strides, sizes = info.level_strides, info.codebook_sizes
        targets: list[torch.Tensor] = []
        indices: list[list[torch.Tensor]] = [[] for _ in strides]
        for photo in photos:
            codes = photo.to_tensors()
            targets.append(model.get_patch_embeds(codes, output_size=photo.pixels)[0].flatten(0, 1).float())
            for level, stride in enumerate(strides):
                indices[level].append(cells_of_patches(codes[level], stride, photo.patch_grid)[0])
        if not targets:
            raise ValueError("no photos to fit the tables to: the archive is empty")
        target, cells = torch.cat(targets).cpu(), [torch.cat(level) for level in indices]
        mean = target.mean(0)
        embeds = [torch.zeros(size, target.shape[1]) for size in sizes]
        residual = target.sub_(mean)
        for _ in range(SWEEPS):
            for level, table in enumerate(embeds):
                residual += F.embedding_bag(cells[level], table, mode="mean")
                embeds[level] = _mean_by_code(residual, cells[level], sizes[level])
                residual -= F.embedding_bag(cells[level], embeds[level], mode="mean")
        return cls(embeds, mean, strides)

    def scores(self, text_embeds: torch.Tensor) -> Scores:
        """Similarities with words (num_words, dim): of each level's codes (codebook_size, num_words), of the mean."""
        words = text_embeds.float().cpu().T
        return [table @ words for table in self.embeds], self.mean @ words

    def patch_scores(self, codes: list[torch.Tensor], scores: Scores, patch_grid: tuple[int, int]) -> torch.Tensor:
        """
        Similarities of the patches of photos of one size.

        Args:
            codes: (photos, rows, columns) int32 or int64 of each level.
            scores: What [`scores`] returned.
            patch_grid: Rows and columns of patches.

        Returns:
            (photos, number of patches, num_words).
        """
        tables, mean = scores
        total = mean.expand(len(codes[0]), *patch_grid, -1).clone()
        for level, (table, stride) in enumerate(zip(tables, self.level_strides, strict=True)):
            if stride >= 1:
                total += repeat_cells(F.embedding(codes[level], table), round(stride), patch_grid)
            else:
                cells = cells_of_patches(codes[level], stride, patch_grid)
                total += F.embedding_bag(cells.flatten(0, 1), table, mode="mean").view_as(total)
        return total.flatten(1, 2)


def cells_of_patches(codes: torch.Tensor, stride: float, patch_grid: tuple[int, int]) -> torch.Tensor:
    """Codes (photos, rows, columns) of a level as (photos, number of patches, cells per patch)."""
    if stride >= 1:
        return repeat_cells(codes[..., None], round(stride), patch_grid).flatten(1, 2)
    factor = round(1 / stride)
    return codes.unflatten(2, (-1, factor)).unflatten(1, (-1, factor)).transpose(2, 3).flatten(3).flatten(1, 2)


def _mean_by_code(values: torch.Tensor, cells: torch.Tensor, codebook_size: int) -> torch.Tensor:
    """The mean of `values` (patches, dim) over the patches of each code; `cells` (patches, cells per patch)."""
    sums = torch.zeros(codebook_size, values.shape[1])
    for column in cells.T:
        sums.index_add_(0, column, values)
    counts = torch.bincount(cells.flatten(), minlength=codebook_size)
    return sums / counts.clamp(min=1)[:, None]
