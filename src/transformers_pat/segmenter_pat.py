"""The open-vocabulary segmenter: similarities of patches and words, refined by weights shared by all words."""

import torch
import torch.nn.functional as F
from torch import nn

from .affinity_pat import Affinity, PatAffinity
from .configuration_pat import PatConfig
from .guidance_pat import Guidance, PatGuidance
from .layers_pat import ZeroLinear, average_pool, concatenate, in_parts, slices, upsample


class PatSegmenterBlock(nn.Module):
    """Mixes over space within each label, then over labels at each place, then over channels."""

    def __init__(self, config: PatConfig):
        super().__init__()
        channels = config.segmenter_channels
        self.num_heads = config.num_segmenter_heads
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.values = nn.Linear(channels, channels)
        self.attended = nn.Linear(channels, channels)
        self.exchange = nn.Linear(2 * channels, channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.contract = nn.Linear(2 * channels, channels)

    def forward(self, hidden_states: torch.Tensor, affinity: Affinity, guidance: torch.Tensor | None) -> torch.Tensor:
        """
        Mix the features of all labels.

        Args:
            hidden_states: (batch, num_labels, height, width, channels).
            affinity: See [`PatAffinity`].
            guidance: (batch, height, width, channels), or None.

        Returns:
            The shape of `hidden_states`.
        """
        height, width = hidden_states.shape[2:4]
        mixed = in_parts(self._mix_neighbours, hidden_states, growth=1)
        values = self._values(mixed)
        states, mixed = hidden_states.flatten(2, 3), mixed.flatten(2, 3)
        shared = None if guidance is None else guidance.flatten(1, 2)[:, None]

        def mix(part: slice) -> torch.Tensor:
            added = None if shared is None else shared[:, :, part]
            return states[:, :, part] + self._mix_places(mixed[:, :, part], affinity.attend(values, part), added)

        size = affinity.keys[..., 0].numel() + 2 * states[:, :, 0].numel()
        parts = slices(height * width, size, hidden_states.device)
        # Without gradient in place: of a large photo with many labels these are the largest states.
        into = None if torch.is_grad_enabled() else states
        return concatenate(map(mix, parts), height * width, dim=2, into=into).unflatten(2, (height, width))

    def _mix_neighbours(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Each label on its own; the shape of `hidden_states`."""
        maps = hidden_states.flatten(0, 1).permute(0, 3, 1, 2)
        return self.norm(self.depthwise(maps).permute(0, 2, 3, 1)).unflatten(0, hidden_states.shape[:2])

    def _values(self, mixed: torch.Tensor) -> torch.Tensor:
        """What is attended to, all labels side by side: (batch, num_heads, number of cells, labels * channels)."""
        values = self.values(average_pool(mixed.flatten(0, 1), PatAffinity.key_stride))
        by_head = values.flatten(1, 2).unflatten(0, mixed.shape[:2]).unflatten(-1, (self.num_heads, -1))
        return by_head.permute(0, 3, 2, 1, 4).flatten(3)

    def _mix_places(self, mixed: torch.Tensor, attended: torch.Tensor, guidance: torch.Tensor | None) -> torch.Tensor:
        """Attention's result, then over labels, then over channels, for some places: (batch, labels, places, ...)."""
        attended = attended.unflatten(3, (mixed.shape[1], -1)).permute(0, 3, 2, 1, 4).flatten(3)
        mixed = mixed + self.attended(attended)
        # The maximum, unlike the mean, does not fade as the label list grows; both are exact under any label order.
        over_labels = torch.cat([mixed.amax(dim=1, keepdim=True), mixed.mean(dim=1, keepdim=True)], dim=-1)
        shared = self.exchange(over_labels)
        if guidance is not None:
            shared = shared + guidance
        return self.contract(F.relu(self.expand(mixed + shared), inplace=True))


class PatUpsampler(nn.Module):
    """From the patches to the stride of the logits, each label on its own."""

    def __init__(self, config: PatConfig):
        super().__init__()
        channels = config.segmenter_channels // 2
        self.factor = config.cells_per_patch
        self.project = nn.Linear(config.segmenter_channels, channels)
        self.skip = nn.Conv2d(1, channels, 5, padding=2)
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, 2 * channels)
        self.contract = nn.Linear(2 * channels, channels)
        self.out = ZeroLinear(channels, 1)

    def forward(
        self, hidden_states: torch.Tensor, similarities: torch.Tensor, guidance: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Compute corrections of the logits.

        Args:
            hidden_states: (batch, num_labels, height, width, segmenter_channels).
            similarities: On the grid of the logits, (batch, num_labels, rows, columns).
            guidance: (batch, rows, columns, segmenter_channels // 2), or None.

        Returns:
            (batch, num_labels, rows, columns); zero before training.
        """
        batch_and_labels = similarities.shape[:2]
        coarse = self.project(hidden_states).flatten(0, 1).permute(0, 3, 1, 2)
        skip = self.skip(similarities.flatten(0, 1)[:, None].to(coarse.dtype))
        maps = (upsample(coarse, self.factor) + skip).permute(0, 2, 3, 1)
        if guidance is not None:
            maps = (maps.unflatten(0, batch_and_labels) + guidance[:, None]).flatten(0, 1)
        mixed = self.norm(self.depthwise(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
        refined = maps + self.contract(F.relu(self.expand(mixed), inplace=True))
        return self.out(refined).squeeze(-1).unflatten(0, batch_and_labels)


class PatSegmenter(nn.Module):
    """
    Dense embeddings and class embeddings to logits: cost aggregation, and PAT when the codes guide it.

    The similarities of an image with each label are refined over space and over labels by weights that all labels
    share (CAT-Seg, arXiv 2303.11797; SED, arXiv 2311.15537; sizes and wiring are our choice). The guidance says which
    places belong together; what is specific to a word comes from its similarities alone. Corrections and guidance
    start at zero: an untrained PAT is the baseline, and that is CLIP without training.
    """

    # Brings differences of similarities to the order of 1 (our choice).
    similarity_scale = 5.0

    def __init__(self, config: PatConfig):
        super().__init__()
        channels = config.segmenter_channels
        self.factor, self.max_refined_labels = config.cells_per_patch, config.max_refined_labels
        self.stem = nn.Conv2d(2, channels, 7, padding=3)
        self.project = nn.Sequential(nn.LayerNorm(config.projection_dim), nn.Linear(config.projection_dim, channels))
        self.affinity = PatAffinity(config)
        self.blocks = nn.ModuleList([PatSegmenterBlock(config) for _ in range(config.num_segmenter_blocks)])
        self.upsampler = PatUpsampler(config)
        self.guidance = PatGuidance(config) if config.token_guidance else None
        # A word of its own for what fits none of the others; see [`PatForSemanticSegmentation.add_background`].
        self.background_embed = nn.Parameter(torch.zeros(config.projection_dim))

    def guide(self, tokens: torch.Tensor | None, dense_embeds: torch.Tensor) -> Guidance | None:
        """
        Compute what guides the segmentation, for all words alike; None for the baseline.

        Args:
            tokens: The decoded codes, (batch, rows, columns, hidden_size) on the finest grid; None for the baseline.
            dense_embeds: (batch, height, width, projection_dim).
        """
        return None if self.guidance is None or tokens is None else self.guidance(tokens, dense_embeds)

    def forward(
        self,
        dense_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        guidance: Guidance | None = None,
    ) -> torch.Tensor:
        """
        Segment by similarity, refinement and guidance.

        Args:
            dense_embeds: Unit-length patch embeddings (batch, height, width, projection_dim).
            text_embeds: Unit-length class embeddings (num_labels, projection_dim).
            logit_scale: CLIP's temperature, a positive scalar.
            guidance: See [`guide`]; None for the baseline.

        Returns:
            Logits (batch, num_labels, rows, columns) at the finest level's stride (one patch if that is coarser).
        """
        coarse, fine = self._similarities(dense_embeds, text_embeds, guidance)
        # An exported graph serves any number of labels, so it always chooses.
        if not torch.compiler.is_exporting() and fine.shape[1] <= self.max_refined_labels:
            return logit_scale.float() * fine + self._corrections(dense_embeds, coarse, fine, guidance)
        # Only labels that some patch may want are refined; no other ever wins over those.
        refined_labels = torch.sym_min(self.max_refined_labels, fine.shape[1])
        chosen = coarse.amax(dim=(2, 3)).topk(refined_labels, dim=1).indices[:, :, None, None]
        coarse = coarse.gather(1, chosen.expand(-1, -1, *coarse.shape[2:]))
        index = chosen.expand(-1, -1, *fine.shape[2:])
        wanted = fine.gather(1, index)
        logits = fine.mul_(logit_scale.float())
        refined = logits.gather(1, index) + self._corrections(dense_embeds, coarse, wanted, guidance)
        return logits.clamp_(max=refined.amin(1, keepdim=True)).scatter_(1, index, refined)

    def _similarities(
        self, dense_embeds: torch.Tensor, text_embeds: torch.Tensor, guidance: Guidance | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines of patches and words, on the grid of the patches and on that of the logits, in float32."""
        # Half precision would round away small differences.
        with torch.autocast(dense_embeds.device.type, enabled=False):
            words = text_embeds.float()
            coarse = (dense_embeds.float() @ words.T).permute(0, 3, 1, 2)
            fine = upsample(coarse, self.factor)
            if guidance is not None and guidance.residual is not None:
                residual = guidance.residual.float()
                coarse = coarse + (average_pool(residual, self.factor) @ words.T).permute(0, 3, 1, 2)
                # In place: for many labels these are the largest tensors.
                each = words.expand(residual.shape[0], -1, -1)
                fine = fine.flatten(2).baddbmm_(each, residual.flatten(1, 2).mT).unflatten(2, residual.shape[1:3])
        return coarse, fine

    def _corrections(
        self, dense_embeds: torch.Tensor, coarse: torch.Tensor, fine: torch.Tensor, guidance: Guidance | None
    ) -> torch.Tensor:
        """What to add to the logits (batch, num_labels, rows, columns) of the labels whose similarities are given."""
        maps = torch.stack([coarse, _relative(coarse)], dim=2) * self.similarity_scale
        hidden_states = in_parts(self._start, maps.to(self.stem.weight.dtype), growth=self.stem.out_channels / 2)
        shared = self.project(dense_embeds)
        if guidance is not None:
            shared = shared + guidance.start
        hidden_states += shared[:, None]
        affinity = self.affinity(dense_embeds, None if guidance is None else guidance.affinity)
        for number, block in enumerate(self.blocks):
            hidden_states = block(hidden_states, affinity, None if guidance is None else guidance.blocks[number])
        fine = _relative(fine) * self.similarity_scale
        added = None if guidance is None else guidance.upsampler
        parts = slices(fine.shape[1], 2 * fine[:, 0].numel() * self.upsampler.out.in_features, fine.device)
        corrections = (self.upsampler(hidden_states[:, part], fine[:, part], added) for part in parts)
        return concatenate(corrections, fine.shape[1], dim=1)

    def _start(self, maps: torch.Tensor) -> torch.Tensor:
        """Each label on its own: (batch, num_labels, 2, height, width) to (..., height, width, segmenter_channels)."""
        return self.stem(maps.flatten(0, 1)).permute(0, 2, 3, 1).unflatten(0, maps.shape[:2])


def _relative(similarities: torch.Tensor) -> torch.Tensor:
    """Less those of the best label at each place."""
    return similarities - similarities.amax(dim=1, keepdim=True)
