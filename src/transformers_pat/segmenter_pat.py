"""The open-vocabulary segmenter: similarities of patches and words, refined by weights shared by all words."""

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_pat import PatConfig
from .layers_pat import ZeroLinear, average_pool, repeat_cells


class PatRefinerBlock(nn.Module):
    """Mixes over space within each label, then over labels at each place, then over channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.exchange = nn.Linear(channels, channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.contract = nn.Linear(2 * channels, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, num_labels, height, width, channels) to the same."""
        batch_and_labels = hidden_states.shape[:2]
        maps = hidden_states.flatten(0, 1).permute(0, 3, 1, 2)
        mixed = self.norm(self.depthwise(maps).permute(0, 2, 3, 1)).unflatten(0, batch_and_labels)
        # The maximum, unlike the mean, does not fade as the label list grows and is exact under any label order.
        mixed = mixed + self.exchange(mixed.amax(dim=1, keepdim=True))
        return hidden_states + self.contract(F.gelu(self.expand(mixed)))


class PatRefiner(nn.Module):
    """
    Refines similarity maps with weights shared by all labels (CAT-Seg's idea, arXiv 2303.11797, much reduced; ours).

    The last layer starts at zero, so that an untrained refiner changes nothing.
    """

    def __init__(self, config: PatConfig):
        super().__init__()
        channels = config.refiner_channels
        self.max_refined_labels = config.max_refined_labels
        self.stem = nn.Conv2d(1, channels, 7, padding=3)
        self.guide = nn.Sequential(nn.LayerNorm(config.projection_dim), nn.Linear(config.projection_dim, channels))
        self.blocks = nn.ModuleList([PatRefinerBlock(channels) for _ in range(2)])
        self.out = ZeroLinear(channels, 1)

    def forward(self, logits: torch.Tensor, dense_embeds: torch.Tensor) -> torch.Tensor:
        """
        Compute corrections for the labels with the highest similarities in the image.

        Args:
            logits: Scaled similarities (batch, num_labels, height, width).
            dense_embeds: Patch embeddings (batch, height, width, projection_dim).

        Returns:
            What to add to the logits, same shape; zero for labels beyond the `max_refined_labels` of highest
            maximum in the image.
        """
        if logits.shape[1] <= self.max_refined_labels:
            return self._refine(logits, dense_embeds)
        chosen = logits.amax(dim=(2, 3)).topk(self.max_refined_labels, dim=1).indices
        index = chosen[:, :, None, None].expand(-1, -1, *logits.shape[2:])
        refined = self._refine(logits.gather(1, index), dense_embeds)
        return torch.zeros_like(logits, dtype=refined.dtype).scatter(1, index, refined)

    def _refine(self, logits: torch.Tensor, dense_embeds: torch.Tensor) -> torch.Tensor:
        batch_size, num_labels = logits.shape[:2]
        relative = logits - logits.amax(dim=1, keepdim=True)
        maps = self.stem(relative.reshape(-1, 1, *logits.shape[2:]).to(self.stem.weight.dtype))
        hidden_states = maps.permute(0, 2, 3, 1).unflatten(0, (batch_size, num_labels))
        hidden_states = hidden_states + self.guide(dense_embeds)[:, None]
        for block in self.blocks:
            hidden_states = block(hidden_states)
        return self.out(hidden_states).squeeze(-1)


class PatTokenVote(nn.Module):
    """
    Guidance by the codes: joint bilateral upsampling (Kopf et al. 2007) of the logits, our choice.

    Each cell averages neighbouring patches' logits, weighted by distance and by the similarity of their decoded
    features. A gate per cell, computed from the codes, mixes the average in. It starts at zero, so that an untrained
    PAT equals the baseline exactly. No weight depends on the word.
    """

    # Our choice: radius and standard deviation of the neighbourhood in patches; initial scale of the cosines.
    radius = 2
    reach = 1.0
    initial_temperature = 10.0

    def __init__(self, config: PatConfig):
        super().__init__()
        self.cells_per_patch, self.patches_per_cell = config.cells_per_patch, config.patches_per_cell
        self.project = nn.Linear(config.hidden_size, config.codebook_dim, bias=False)
        self.temperature = nn.Parameter(torch.tensor(self.initial_temperature))
        self.gate = ZeroLinear(config.hidden_size, 1)

    def forward(self, logits: torch.Tensor, finer_logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """
        Mix the weighted average of neighbouring logits into the upsampled ones.

        Args:
            logits: (batch, num_labels, height, width), one per patch.
            finer_logits: The same on the grid of the result, (batch, num_labels, rows, columns).
            tokens: The decoded codes, (batch, rows, columns, hidden_size); on a coarser grid, if the finest level is
                coarser than the patches.

        Returns:
            The shape of `finer_logits`.
        """
        if self.patches_per_cell > 1:
            tokens = repeat_cells(tokens, self.patches_per_cell)[:, : logits.shape[2], : logits.shape[3]]
        gate = self.gate(tokens).permute(0, 3, 1, 2).float()
        averaged = self._shares(tokens) @ self._bands(logits.permute(0, 2, 3, 1))
        averaged = averaged.unflatten(2, (self.cells_per_patch, -1)).flatten(1, 2).permute(0, 3, 1, 2)
        return finer_logits + gate * (averaged - finer_logits)

    def _shares(self, tokens: torch.Tensor) -> torch.Tensor:
        """Weights of patches for cells: (batch, height, cells of a row of patches, patches of its band)."""
        embeds = F.normalize(self.project(tokens), dim=-1).float()
        patches = average_pool(embeds, self.cells_per_patch)
        cells = self.temperature.float() * embeds.unflatten(1, (-1, self.cells_per_patch)).flatten(2, 3)
        alike = cells @ self._bands(patches).transpose(2, 3)
        inside = self._bands(torch.ones_like(patches[:1, ..., :1])).transpose(2, 3)
        return (alike + (self._nearness(patches) + inside.log())).softmax(-1)

    def _bands(self, maps: torch.Tensor) -> torch.Tensor:
        """
        Gather the rows around each row, zero beyond the border.

        (batch, height, width, channels) to (batch, height, patches of the band, channels). Bands keep the products
        large, which is several times as fast as a window per cell.
        """
        padded = F.pad(maps, (0, 0, 0, 0, self.radius, self.radius))
        return padded.unfold(1, 2 * self.radius + 1, 1).permute(0, 1, 4, 2, 3).flatten(2, 3)

    def _nearness(self, patches: torch.Tensor) -> torch.Tensor:
        """Logarithm of a Gaussian of the distance, (cells of a row of patches, patches of its band)."""
        cells_per_patch, width = self.cells_per_patch, patches.shape[2]
        within = (torch.arange(cells_per_patch).to(patches) + 0.5) / cells_per_patch - 0.5
        columns = torch.arange(width).to(patches)
        rows_apart = within[:, None] - torch.arange(-self.radius, self.radius + 1).to(patches)
        columns_apart = (columns[:, None] + within).flatten()[:, None] - columns
        too_far = (columns_apart.abs() > self.radius + 0.5)[None, :, None]
        squares = rows_apart.square()[:, None, :, None] + columns_apart.square()[None, :, None]
        nearness = (-squares / (2 * self.reach**2)).masked_fill(too_far, -torch.inf)
        return nearness.flatten(2).flatten(0, 1)


class PatSegmenter(nn.Module):
    """Dense embeddings and class embeddings to logits: the baseline, and PAT when the codes guide it."""

    def __init__(self, config: PatConfig):
        super().__init__()
        self.upsampling = config.cells_per_patch
        self.refiner = PatRefiner(config)
        self.vote = PatTokenVote(config) if config.token_guidance else None

    def forward(
        self,
        dense_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Segment by similarity, refinement and guidance.

        Args:
            dense_embeds: Unit-length patch embeddings (batch, height, width, projection_dim).
            text_embeds: Unit-length class embeddings (num_labels, projection_dim).
            logit_scale: CLIP's temperature, a positive scalar.
            guidance: The decoded codes, (batch, rows, columns, hidden_size) on the finest grid; None for the
                baseline.

        Returns:
            Logits (batch, num_labels, rows, columns) at the finest level's stride (one patch if that is coarser).
        """
        # In float32: half precision would round away small differences between similarities.
        with torch.autocast(dense_embeds.device.type, enabled=False):
            logits = (logit_scale.float() * (dense_embeds.float() @ text_embeds.float().T)).permute(0, 3, 1, 2)
        logits = logits + self.refiner(logits, dense_embeds)
        finer_logits = logits
        if self.upsampling > 1:
            finer_logits = F.interpolate(logits, scale_factor=self.upsampling, mode="bilinear", align_corners=False)
        if self.vote is None or guidance is None:
            return finer_logits
        with torch.autocast(dense_embeds.device.type, enabled=False):
            return self.vote(logits, finer_logits, guidance.to(self.vote.project.weight.dtype))
