"""The open-vocabulary segmenter: similarities of patches and words, refined by weights shared by all words."""

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_pat import PatConfig
from .guidance_pat import Guidance, PatGuidance
from .layers_pat import ZeroLinear, average_pool, upsample


class PatAffinity(nn.Module):
    """
    Which places belong together: attention weights, computed once per image and used for every label.

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

    def forward(self, dense_embeds: torch.Tensor, guidance: torch.Tensor | None) -> list[torch.Tensor]:
        """
        Compute the attention weights of an image's patches.

        Args:
            dense_embeds: (batch, height, width, projection_dim).
            guidance: (batch, height, width, 2 * segmenter_channels), or None.

        Returns:
            For each head (batch, height * width, number of cells); rows sum to 1.
        """
        projected = self.project(dense_embeds)
        if guidance is not None:
            projected = projected + guidance
        queries, keys = projected.chunk(2, dim=-1)
        keys = average_pool(keys, self.key_stride)
        distances = self._distances(queries.shape[1:3], keys.shape[1:3]).to(queries.dtype)
        queries, keys = (x.flatten(1, 2).unflatten(-1, (self.num_heads, -1)) for x in (queries, keys))
        queries = queries * queries.shape[-1] ** -0.5
        # Head by head, and never all in one tensor: of a large photo these are the largest matrices.
        heads = zip(queries.unbind(2), keys.unbind(2), self.slope, strict=True)
        return [(q @ k.mT - slope * distances).softmax(-1) for q, k, slope in heads]

    def _distances(self, patches: torch.Size, cells: torch.Size) -> torch.Tensor:
        """Of patches and cells, in patches: (number of patches, number of cells)."""
        squares = []
        for side, count in zip(patches, cells, strict=True):
            centres = self.key_stride * torch.arange(count, device=self.slope.device) + (self.key_stride - 1) / 2
            squares.append((torch.arange(side, device=self.slope.device)[:, None] - centres).square())
        down, across = squares
        return (down[:, None, :, None] + across[None, :, None]).sqrt().flatten(2).flatten(0, 1)


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

    def forward(
        self, hidden_states: torch.Tensor, affinity: list[torch.Tensor], guidance: torch.Tensor | None
    ) -> torch.Tensor:
        """
        Mix the features of all labels.

        Args:
            hidden_states: (batch, num_labels, height, width, channels).
            affinity: Attention weights, see [`PatAffinity`].
            guidance: (batch, height, width, channels), or None.

        Returns:
            The shape of `hidden_states`.
        """
        batch_and_labels = hidden_states.shape[:2]
        maps = hidden_states.flatten(0, 1).permute(0, 3, 1, 2)
        mixed = self.norm(self.depthwise(maps).permute(0, 2, 3, 1)).unflatten(0, batch_and_labels)
        mixed = mixed + self.attended(self._attend(mixed, affinity))
        # The maximum, unlike the mean, does not fade as the label list grows; both are exact under any label order.
        over_labels = torch.cat([mixed.amax(dim=1, keepdim=True), mixed.mean(dim=1, keepdim=True)], dim=-1)
        shared = self.exchange(over_labels)
        if guidance is not None:
            shared = shared + guidance[:, None]
        return hidden_states + self.contract(F.relu(self.expand(mixed + shared), inplace=True))

    def _attend(self, hidden_states: torch.Tensor, affinity: list[torch.Tensor]) -> torch.Tensor:
        """One product per head, with the values of all labels side by side."""
        batch_and_labels, (height, width, channels) = hidden_states.shape[:2], hidden_states.shape[2:]
        values = self.values(average_pool(hidden_states.flatten(0, 1), PatAffinity.key_stride))
        by_head = values.flatten(1, 2).unflatten(0, batch_and_labels).unflatten(-1, (self.num_heads, -1))
        by_head = by_head.permute(0, 3, 2, 1, 4).flatten(3)
        attended = torch.stack(
            [weights @ own for weights, own in zip(affinity, by_head.unbind(1), strict=True)], dim=1
        )
        attended = attended.unflatten(3, (batch_and_labels[1], -1)).permute(0, 3, 2, 1, 4)
        return attended.reshape(*batch_and_labels, height, width, channels)


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
    labels_upsampled = 8

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
        wanted, logits = fine.gather(1, index), logit_scale.float() * fine
        del fine  # as large as the logits
        refined = logits.gather(1, index) + self._corrections(dense_embeds, coarse, wanted, guidance)
        return logits.clamp_(max=refined.amin(1, keepdim=True)).scatter_(1, index, refined)

    def _similarities(
        self, dense_embeds: torch.Tensor, text_embeds: torch.Tensor, guidance: Guidance | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines of patches and words, on the grid of the patches and on that of the logits, in float32."""
        # Half precision would round away small differences.
        with torch.autocast(dense_embeds.device.type, enabled=False):
            words = text_embeds.float().T
            coarse = (dense_embeds.float() @ words).permute(0, 3, 1, 2)
            fine = upsample(coarse, self.factor)
            if guidance is not None and guidance.residual is not None:
                added = (guidance.residual.float() @ words).permute(0, 3, 1, 2)
                coarse, fine = coarse + F.avg_pool2d(added, self.factor), fine + added
        return coarse, fine

    def _corrections(
        self, dense_embeds: torch.Tensor, coarse: torch.Tensor, fine: torch.Tensor, guidance: Guidance | None
    ) -> torch.Tensor:
        """What to add to the logits (batch, num_labels, rows, columns) of the labels whose similarities are given."""
        batch_and_labels = coarse.shape[:2]
        maps = torch.stack([coarse, _relative(coarse)], dim=2).flatten(0, 1) * self.similarity_scale
        hidden_states = self.stem(maps.to(self.stem.weight.dtype)).permute(0, 2, 3, 1).unflatten(0, batch_and_labels)
        shared = self.project(dense_embeds)
        if guidance is not None:
            shared = shared + guidance.start
        hidden_states = hidden_states + shared[:, None]
        affinity = self.affinity(dense_embeds, None if guidance is None else guidance.affinity)
        for number, block in enumerate(self.blocks):
            hidden_states = block(hidden_states, affinity, None if guidance is None else guidance.blocks[number])
        fine = _relative(fine) * self.similarity_scale
        # Labels don't meet on the way up: without gradient, a few at a time bound the memory of large photos.
        whole = torch.is_grad_enabled() or torch.compiler.is_compiling()
        at_a_time = fine.shape[1] if whole else self.labels_upsampled
        added = None if guidance is None else guidance.upsampler
        parts = zip(hidden_states.split(at_a_time, dim=1), fine.split(at_a_time, dim=1), strict=True)
        return torch.cat([self.upsampler(states, similarities, added) for states, similarities in parts], dim=1)


def _relative(similarities: torch.Tensor) -> torch.Tensor:
    """Less those of the best label at each place."""
    return similarities - similarities.amax(dim=1, keepdim=True)
