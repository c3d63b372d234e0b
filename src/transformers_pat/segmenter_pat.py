"""The open-vocabulary segmenter: similarities to words, refined by a network that never sees which word it is."""

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_pat import PatConfig
from .pyramid_pat import ZeroLinear


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
        Args:
            logits: Scaled similarities (batch, num_labels, height, width).
            dense_embeds: Patch embeddings (batch, height, width, projection_dim).

        Returns:
            What to add to the logits, same shape; zero for labels beyond the `max_refined_labels` that some place
            of the image wants most.
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


class PatSegmenter(nn.Module):
    """
    Dense embeddings and class embeddings to logits: the baseline, and PAT when the codes guide it.

    Guidance is a residual in embedding space, before the product with words: what the feature head decodes from codes.
    Its gate starts at zero, so that an untrained PAT equals the baseline exactly.
    """

    def __init__(self, config: PatConfig):
        super().__init__()
        self.upsampling = round(1 / config.level_strides[-1]) if config.level_strides[-1] < 1 else 1
        self.finest_to_patch = max(1, round(config.level_strides[-1]))
        self.refiner = PatRefiner(config)
        self.gate = nn.Parameter(torch.zeros(config.projection_dim)) if config.token_guidance else None

    def forward(
        self,
        dense_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        guidance: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            dense_embeds: Unit-length patch embeddings (batch, height, width, projection_dim).
            text_embeds: Unit-length class embeddings (num_labels, projection_dim).
            logit_scale: CLIP's temperature, a positive scalar.
            guidance: Embeddings decoded from the codes, (batch, rows, columns, projection_dim) on the finest grid.

        Returns:
            Logits (batch, num_labels, rows, columns) at the finest level's stride (one patch if that is coarser).
        """
        embeds = self._upsample(dense_embeds.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        if self.gate is not None and guidance is not None:
            residual = self.gate * guidance
            if self.finest_to_patch > 1:
                residual = residual.repeat_interleave(self.finest_to_patch, 1).repeat_interleave(
                    self.finest_to_patch, 2
                )[:, : embeds.shape[1], : embeds.shape[2]]
            embeds = embeds + residual
        # In float32: half precision would round similarities that differ by less than words do.
        with torch.autocast(embeds.device.type, enabled=False):
            embeds = F.normalize(embeds.float(), dim=-1)
            logits = (logit_scale.float() * (embeds @ text_embeds.float().T)).permute(0, 3, 1, 2)
        at_patches = F.avg_pool2d(logits, self.upsampling) if self.upsampling > 1 else logits
        return logits + self._upsample(self.refiner(at_patches, dense_embeds))

    def _upsample(self, maps: torch.Tensor) -> torch.Tensor:
        if self.upsampling == 1:
            return maps
        return F.interpolate(maps, scale_factor=self.upsampling, mode="bilinear", align_corners=False)
