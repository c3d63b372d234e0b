"""PAT's own layers on both sides of the codebooks: level encoders below them, the shared decoder above."""

import itertools
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_pat import PatConfig

# Of a part's largest tensor, see `slices`: 4 MB in float32 (our choice).
NUMBERS_IN_CACHE = 2**20


class ZeroLinear(nn.Linear):
    """
    Starts at zero (`PatPreTrainedModel._init_weights`), so that what it is added to starts unchanged.

    For remote code, transformers calls `_init_weights` only on modules that own parameters, so this layer needs its
    own class.
    """


class PatBlock(GradientCheckpointingLayer):
    """
    Residual block (ConvNeXt, arXiv 2201.03545) that starts as the identity.

    Depthwise convolution, norm, feed-forward on (batch, height, width, channels).
    """

    def __init__(self, channels: int, kernel_size: int):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.contract = ZeroLinear(2 * channels, channels)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """(batch, height, width, channels) to the same."""
        mixed = self.depthwise(hidden_states.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return in_parts(self._feed_forward, hidden_states, mixed, growth=2)

    def _feed_forward(self, hidden_states: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        return hidden_states + self.contract(F.gelu(self.expand(self.norm(mixed))))


def pixel_shuffle(features: torch.Tensor, factor: int) -> torch.Tensor:
    """(batch, height, width, channels * factor²) to (batch, height * factor, width * factor, channels)."""
    if factor == 1:
        return features
    return F.pixel_shuffle(features.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)


def repeat_cells(features: torch.Tensor, factor: int, grid: tuple[int, int]) -> torch.Tensor:
    """Repeat the cells of (batch, height, width, channels) along both sides and leave out what is beyond `grid`."""
    # Chosen, not cut off: torch.compile and torch.export would treat sides that need no cutting as another case.
    rows, columns = (torch.arange(side, device=features.device) // factor for side in grid)
    return features.index_select(1, rows).index_select(2, columns)


def to_patch_grid(
    cells: torch.Tensor, cells_per_patch: int, patches_per_cell: int, patch_grid: tuple[int, int]
) -> torch.Tensor:
    """Resample (batch, rows, columns, channels) from the finest level's cells to one value per patch."""
    if patches_per_cell == 1:
        return average_pool(cells, cells_per_patch)
    return repeat_cells(cells, patches_per_cell, patch_grid)


def average_pool(features: torch.Tensor, factor: int) -> torch.Tensor:
    """Mean over factor × factor cells; cells at the lower and right border may be smaller."""
    if factor == 1:
        return features
    pooled = F.avg_pool2d(features.permute(0, 3, 1, 2), factor, ceil_mode=True, count_include_pad=False)
    return pooled.permute(0, 2, 3, 1)


def upsample(maps: torch.Tensor, factor: int) -> torch.Tensor:
    """Bilinear enlargement of (batch, channels, height, width) by a whole factor."""
    return maps if factor == 1 else F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)


def slices(count: int, size: int, device: torch.device) -> list[slice]:
    """
    Cut 0..count into parts whose largest tensor fits a processor's cache if that of one item has `size` numbers.

    With gradient all is kept anyway, a compiler plans memory by itself, and an accelerator wants large tensors: then
    there is one part.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or device.type != "cpu":
        return [slice(None)]
    parts = min(count, -(-count * size // NUMBERS_IN_CACHE))
    step = -(-count // parts)
    return [slice(start, start + step) for start in range(0, count, step)]


def in_parts(function: Callable[..., torch.Tensor], *states: torch.Tensor, growth: float) -> torch.Tensor:
    """
    `function(*states)`, computed part by part along dimension 1, in which places don't meet; see [`slices`].

    `growth` is the size of the function's largest tensor in units of that of its first input.
    """
    count = states[0].shape[1]
    parts = slices(count, round(states[0][:, 0].numel() * growth), states[0].device)
    return concatenate((function(*(one[:, part] for one in states)) for part in parts), count, dim=1)


def concatenate(parts: Iterable[torch.Tensor], count: int, dim: int, into: torch.Tensor | None = None) -> torch.Tensor:
    """`torch.cat` of parts that are `count` long together, each copied as soon as it is there, so that it can go."""
    filled = 0
    for part in parts:
        if part.shape[dim] == count:
            return part
        if into is None:
            into = part.new_empty(*part.shape[:dim], count, *part.shape[dim + 1 :])
        into.narrow(dim, filled, part.shape[dim]).copy_(part)
        filled += part.shape[dim]
    assert into is not None
    return into


def level_grid(patch_grid: tuple[int, int], stride: float) -> tuple[int, int]:
    """Rows and columns of codes of a level whose stride is given in patches."""
    rows, columns = (-int(-side // stride) for side in patch_grid)
    return rows, columns


class PatLevelEncoder(nn.Module):
    """
    Features of one level from tapped CLIP layers and the next finer level ("bottom-up composition").

    Args:
        config: The model's configuration.
        level: Index of the level, 0 is the coarsest.
    """

    def __init__(self, config: PatConfig, level: int):
        super().__init__()
        self.layers = list(config.feature_layers[level])
        self.stride = config.level_strides[level]
        self.upsampling = round(1 / self.stride) if self.stride < 1 else 1
        last = config.vision_config.num_hidden_layers
        widths = [
            config.projection_dim if layer == last else config.vision_config.hidden_size for layer in self.layers
        ]
        self.norms = nn.ModuleList([nn.LayerNorm(width) for width in widths])
        self.project = nn.Linear(sum(widths), config.hidden_size * self.upsampling**2)
        is_finest = level == config.num_levels - 1
        # A level starts from its own layers alone; what finer levels add is learnt.
        self.compose = nn.Identity() if is_finest else ZeroLinear(config.hidden_size, config.hidden_size)
        self.finer_ratio = 1 if is_finest else round(self.stride / config.level_strides[level + 1])
        self.block = PatBlock(config.hidden_size, kernel_size=3)
        self.to_code = nn.Sequential(
            nn.LayerNorm(config.hidden_size), nn.Linear(config.hidden_size, config.codebook_dim)
        )

    def forward(self, taps: dict[int, torch.Tensor], finer: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Compute one level from the tapped layers and the next finer level.

        Args:
            taps: Layer number -> hidden state, as in [`ClipFeatures`].
            finer: Hidden state of the next finer level, or None for the finest.

        Returns:
            The level's hidden state (batch, rows, columns, hidden_size), for the next coarser level, and the
            features to quantise (batch, rows, columns, codebook_dim).
        """
        tapped = torch.cat([norm(taps[layer]) for norm, layer in zip(self.norms, self.layers, strict=True)], dim=-1)
        hidden_states = pixel_shuffle(self.project(tapped), self.upsampling)
        hidden_states = average_pool(hidden_states, max(1, round(self.stride)))
        if finer is not None:
            hidden_states = hidden_states + average_pool(self.compose(finer), self.finer_ratio)
        hidden_states = self.block(hidden_states)
        return hidden_states, self.to_code(hidden_states)


class PatDecoder(nn.Module):
    """
    The shared decoder, which goes from the coarsest codes to the finest and adds each level ("top-down").

    Both branches read its output at the stride of the finest level. Levels that are not given count as zero, so any
    prefix of levels decodes.
    """

    def __init__(self, config: PatConfig):
        super().__init__()
        strides = config.level_strides
        self.upsampling = [1] + [round(coarse / fine) for coarse, fine in itertools.pairwise(strides)]
        self.embeds = nn.ModuleList([nn.Linear(config.codebook_dim, config.hidden_size) for _ in strides])
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(*[PatBlock(config.hidden_size, kernel_size=5) for _ in range(config.num_decoder_blocks)])
                for _ in strides
            ]
        )
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, quantized: list[torch.Tensor], keep: torch.Tensor | None = None) -> torch.Tensor:
        """
        Decode the levels from coarse to fine.

        Args:
            quantized: Vectors of all levels, (batch, rows, columns, codebook_dim) each, coarsest first.
            keep: (batch, num_levels) of 0 and 1: which levels the decoder may see; all by default.

        Returns:
            (batch, rows, columns, hidden_size) on the grid of the finest level.
        """
        hidden_states = None
        for level, vectors in enumerate(quantized):
            embeds = self.embeds[level](vectors)
            if keep is not None:
                embeds = embeds * keep[:, level, None, None, None].to(embeds.dtype)
            if hidden_states is not None:
                embeds += repeat_cells(hidden_states, self.upsampling[level], embeds.shape[1:3])
            hidden_states = self.blocks[level](embeds)
        return self.norm(hidden_states)
