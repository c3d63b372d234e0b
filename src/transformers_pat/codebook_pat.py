"""Codebooks on the unit sphere, one per level, updated by moving averages; no gradient reaches them."""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from .configuration_pat import PatConfig


def spread_codes(num_codes: int, dim: int) -> torch.Tensor:
    """Distinct unit vectors (num_codes, dim) without randomness, so that construction and loading agree."""
    number = torch.arange(1, num_codes + 1, dtype=torch.float32)[:, None]
    frequency = torch.sqrt(torch.arange(2, dim + 2, dtype=torch.float32))[None]
    return F.normalize(torch.cos(number * frequency * math.pi), dim=-1)


def code_statistics(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    How evenly codes are used, given how often each was.

    Args:
        counts: (num_codes,).

    Returns:
        The share of codes used at all, 0 to 1, and the perplexity of their distribution, 1 to num_codes.
    """
    share = counts / counts.sum()
    return (share > 0).float().mean(), torch.special.entr(share).sum().exp()


def gather_tokens(tokens: torch.Tensor) -> torch.Tensor:
    """The tokens of all processes, in rank order, so that every process makes the same update."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return tokens
    counts = [torch.zeros(1, dtype=torch.long, device=tokens.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(tokens)], device=tokens.device))
    longest = int(max(counts))
    padded = F.pad(tokens.contiguous(), (0, 0, 0, longest - len(tokens)))
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([part[: int(count)] for part, count in zip(gathered, counts, strict=True)])


class PatCodebook(nn.Module):
    """
    Vector quantiser with cosine similarity.

    The recipe is that of BEiT-2's VQ-KD (arXiv 2208.06366, section 2.2): low-dimensional unit-length codes, moving
    averages, k-means start. Revival of dead codes follows VQGAN practice and resets their statistics too.

    Args:
        num_codes: Size of the codebook.
        dim: Dimension of a code.
        decay: Decay of the moving averages.
        quantize: Whether features are replaced by their codes; if not, they pass as they are.
    """

    num_kmeans_steps = 10
    # A code is replaced below this share of the tokens that it would get if all were used alike (our choice).
    dead_below = 0.1

    def __init__(self, num_codes: int, dim: int, decay: float, quantize: bool = True):
        super().__init__()
        self.num_codes, self.dim, self.decay, self.quantize = num_codes, dim, decay, quantize
        # In float32 whatever the model's dtype: moving averages lose small steps in half precision.
        self.register_buffer("embed", spread_codes(num_codes, dim))
        self.register_buffer("embed_sum", torch.zeros(num_codes, dim, dtype=torch.float32))
        self.register_buffer("cluster_size", torch.zeros(num_codes, dtype=torch.float32))
        # Number of updates so far; a float because a whole-model dtype cast must leave it meaningful.
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.float32))

    def reset_buffers(self, copy_) -> None:
        """Restore the state of construction by `copy_(target, source)`, for `_init_weights`."""
        copy_(self.embed, spread_codes(self.num_codes, self.dim))
        for buffer in (self.embed_sum, self.cluster_size, self.num_updates):
            copy_(buffer, torch.zeros(buffer.shape))

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Quantise (batch, height, width, dim) features, updating the codebook in training mode.

        Returns:
            The quantised features with a straight-through gradient (same shape), the codes (batch, height, width)
            int64, and the commitment loss (a scalar, 0 to 4: squared distance on the unit sphere).
        """
        with torch.autocast(features.device.type, enabled=False):
            features = F.normalize(features.float(), dim=-1)
            if self.training and torch.is_grad_enabled():
                self.update(features.detach().flatten(0, -2))
            codes = self.nearest(features)
            if not self.quantize:
                return features, codes, features.new_zeros(())
            quantized = self.lookup(codes)
            commitment_loss = (features - quantized).square().sum(-1).mean()
            # Straight-through; in this order the value is exactly that of the code.
            return quantized + (features - features.detach()), codes, commitment_loss

    def nearest(self, features: torch.Tensor) -> torch.Tensor:
        """The most similar code of each (..., dim) vector, int64."""
        # On a CPU, max is a third faster than argmax.
        return (features.detach().float() @ self.embed.float().T).max(-1).indices

    def lookup(self, codes: torch.Tensor) -> torch.Tensor:
        """The float32 vectors (..., dim) of integer codes (...)."""
        return F.embedding(codes, self.embed.float())

    @torch.no_grad()
    def update(self, tokens: torch.Tensor) -> None:
        """Move the codes towards unit-length `tokens` (num_tokens, dim) of this step, from all processes."""
        tokens = gather_tokens(tokens)
        generator = torch.Generator().manual_seed(int(self.num_updates))
        shuffled = tokens[torch.randperm(len(tokens), generator=generator).to(tokens.device)]
        if self.num_updates == 0:
            self._start_from(shuffled)
        sums, counts = self._assign(tokens)
        self.embed_sum.lerp_(sums.to(self.embed_sum.dtype), 1 - self.decay)
        self.cluster_size.lerp_(counts.to(self.cluster_size.dtype), 1 - self.decay)
        self._revive(shuffled)
        alive = self.cluster_size[:, None] > 0
        self.embed.copy_(torch.where(alive, F.normalize(self.embed_sum.float(), dim=-1), self.embed.float()))
        self.num_updates += 1

    def _assign(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        codes = self.nearest(tokens)
        sums = torch.zeros_like(self.embed, dtype=torch.float32).index_add_(0, codes, tokens)
        return sums, torch.bincount(codes, minlength=self.num_codes).float()

    def _start_from(self, shuffled: torch.Tensor) -> None:
        """Spherical k-means on the first batch; codes that get no token keep their place until revived."""
        start = shuffled[: self.num_codes]
        self.embed[: len(start)] = start.to(self.embed.dtype)
        for _ in range(self.num_kmeans_steps):
            sums, counts = self._assign(shuffled)
            self.embed.copy_(torch.where(counts[:, None] > 0, F.normalize(sums, dim=-1), self.embed.float()))
        self.embed_sum.copy_(sums)
        self.cluster_size.copy_(counts)

    def _revive(self, shuffled: torch.Tensor) -> None:
        """Put tokens of this step in the place of dead codes, with statistics that keep them alive at first."""
        fair_share = len(shuffled) / self.num_codes
        dead = (self.cluster_size < self.dead_below * fair_share).nonzero().flatten()[: len(shuffled)]
        self.embed_sum[dead] = fair_share * shuffled[: len(dead)].to(self.embed_sum.dtype)
        self.cluster_size[dead] = fair_share


@dataclass
class QuantizedPyramid:
    """
    The codes of a batch of images, coarsest level first.

    Args:
        vectors: The codes' vectors with a straight-through gradient, (batch, rows, columns, codebook_dim) per level.
        codes: (batch, rows, columns) int64 per level.
        commitment_loss: Squared distance of the features to their codes, mean over levels, a scalar from 0 to 4.
    """

    vectors: list[torch.Tensor]
    codes: tuple[torch.Tensor, ...]
    commitment_loss: torch.Tensor


class PatCodebooks(nn.ModuleList):
    """One [`PatCodebook`] per level, coarsest first."""

    def __init__(self, config: PatConfig):
        super().__init__(
            PatCodebook(size, config.codebook_dim, config.codebook_decay, config.quantize)
            for size in config.codebook_sizes
        )

    def quantize(self, features: list[torch.Tensor], dtype: torch.dtype) -> QuantizedPyramid:
        """Quantise the features of all levels, (batch, rows, columns, codebook_dim) each, to vectors of `dtype`."""
        levels = [codebook(features[level]) for level, codebook in enumerate(self)]
        vectors, codes, commitment_losses = zip(*levels, strict=True)
        return QuantizedPyramid([level.to(dtype) for level in vectors], codes, torch.stack(commitment_losses).mean())

    def look_up(self, codes: list[torch.Tensor], grids: list[tuple[int, int]]) -> list[torch.Tensor]:
        """
        Vectors of stored codes.

        Args:
            codes: Codes of the coarsest levels, (batch, rows, columns) integers each.
            grids: Rows and columns of every level.

        Returns:
            (batch, rows, columns, codebook_dim) in float32 per level, zero where no codes were given.

        Raises:
            ValueError: If codes are not integers, out of range, or do not fill their level's grid.
        """
        vectors = []
        for level, (codebook, grid) in enumerate(zip(self, grids, strict=True)):
            if level < len(codes):
                _check_codes(codes[level], level, (len(codes[0]), *grid), codebook.num_codes)
                vectors.append(codebook.lookup(codes[level]))
            else:
                vectors.append(codebook.embed.new_zeros((len(codes[0]), *grid, codebook.dim)))
        return vectors

    def statistics(self, codes: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        """Share of each level's codes that occur in `codes`, 0 to 1, and their perplexity; both (num_levels,)."""
        levels = enumerate(self)
        counts = [torch.bincount(codes[level].flatten(), minlength=codebook.num_codes) for level, codebook in levels]
        usage, perplexity = zip(*map(code_statistics, counts), strict=True)
        return torch.stack(usage), torch.stack(perplexity)


def read_codes(codes, device: torch.device) -> list[torch.Tensor]:
    """
    Stored codes as int64 tensors.

    Args:
        codes: The output of [`PatModel.encode`], or per level a tensor, an array or nested lists of integers of any
            width, (batch, rows, columns).
        device: Where to put them.

    Raises:
        ValueError: If a level has no three dimensions, is empty or does not hold integers.
    """
    levels = []
    for level, values in enumerate(codes.codes if hasattr(codes, "codes") else codes):
        try:
            tensor = torch.as_tensor(values, device=device)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"Codes of level {level} must be a rectangular grid of integers.") from None
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            raise ValueError(f"Codes of level {level} must be integers, got {tensor.dtype}.")
        levels.append(tensor.long())
    if any(level.ndim != 3 or not level.numel() for level in levels):
        shapes = [tuple(level.shape) for level in levels]
        raise ValueError(f"Codes of each level must be (batch, rows, columns), none of them 0, got {shapes}.")
    return levels


def _check_codes(codes: torch.Tensor, level: int, shape: tuple[int, ...], num_codes: int) -> None:
    if tuple(codes.shape) != shape:
        raise ValueError(
            f"Codes of level {level} should be {shape} to fit the finer levels and output_size, got "
            f"{tuple(codes.shape)}."
        )
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < num_codes:
        raise ValueError(
            f"Codes of level {level} must lie in 0..{num_codes - 1}, got {int(codes.min())}..{int(codes.max())}: "
            "were they made by another model?"
        )
