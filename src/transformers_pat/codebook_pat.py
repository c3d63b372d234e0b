"""A codebook on the unit sphere, updated by moving averages; no gradient ever reaches it."""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


def spread_codes(num_codes: int, dim: int) -> torch.Tensor:
    """Distinct unit vectors (num_codes, dim) without randomness, so that construction and loading agree."""
    number = torch.arange(1, num_codes + 1, dtype=torch.float32)[:, None]
    frequency = torch.sqrt(torch.arange(2, dim + 2, dtype=torch.float32))[None]
    return F.normalize(torch.cos(number * frequency * math.pi), dim=-1)


def code_statistics(counts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How evenly codes are used, given how often each was, (num_codes,): the share that is, and the perplexity."""
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
        self.register_buffer("embed", spread_codes(num_codes, dim))
        self.register_buffer("embed_sum", torch.zeros(num_codes, dim))
        self.register_buffer("cluster_size", torch.zeros(num_codes))
        # Number of updates so far; a float because a whole-model dtype cast must leave it meaningful.
        self.register_buffer("num_updates", torch.zeros(()))

    def reset_buffers(self, copy_) -> None:
        """Restore the state of construction with `copy_(target, source)`, for `_init_weights`."""
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
        """Put tokens of this step in the place of dead codes, with fresh statistics lest they die at once."""
        fair_share = len(shuffled) / self.num_codes
        dead = (self.cluster_size < self.dead_below * fair_share).nonzero().flatten()[: len(shuffled)]
        self.embed_sum[dead] = fair_share * shuffled[: len(dead)].to(self.embed_sum.dtype)
        self.cluster_size[dead] = fair_share
