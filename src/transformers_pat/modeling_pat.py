"""PAT's models: `PatModel` turns images into codes and back, `PatForSemanticSegmentation` segments by any words."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextModel, CLIPVisionModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .affinity_pat import PatAffinity
from .checkpoint_pat import CheckpointMixin
from .clip_features_pat import ClipFeatures, extract_clip_features
from .codebook_pat import PatCodebook, PatCodebooks, QuantizedPyramid, read_codes
from .configuration_pat import PatConfig
from .guidance_pat import Guidance
from .layers_pat import PatDecoder, PatLevelEncoder, ZeroLinear, level_grid, pixel_shuffle, to_patch_grid
from .losses_pat import check_label_maps, feature_loss, reconstruction_loss, residual_loss, segmentation_loss
from .outputs_pat import LOSS_FIELDS, PatEncoderOutput, PatModelOutput, PatSegmentationOutput
from .segmenter_pat import PatSegmenter
from .text_embeddings_pat import TextEmbeddingCache, TextEmbeddingMixin
from .tiling_pat import (
    check_one_size_when_distributed,
    crop_to_image,
    pad_to_patches,
    segment_by_size,
    segment_by_windows,
)
from .transformers_internals_pat import check_forward_kwargs


class PatPreTrainedModel(CheckpointMixin):
    """Base of both models: CLIP's towers stay frozen and in eval mode."""

    config: PatConfig
    config_class = PatConfig
    base_model_prefix = "pat"
    main_input_name = "pixel_values"
    input_modalities: tuple[str, ...] = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["PatBlock"]
    # Statistics of moving averages lose small steps in half precision.
    _keep_in_fp32_modules_strict = [
        "codebooks.*.embed",
        "codebooks.*.embed_sum",
        "codebooks.*.cluster_size",
        "codebooks.*.num_updates",
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, PatCodebook):
            module.reset_buffers(init.copy_)
        elif isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
        elif isinstance(module, PatAffinity):
            init.copy_(module.slope, module.initial_slopes())
        elif isinstance(module, PatSegmenter):
            init.zeros_(module.background_embed)
        elif isinstance(module, PatForSemanticSegmentation):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if module.class_embeds is not None:
                init.zeros_(module.class_embeds)


class PatModel(PatPreTrainedModel):
    """
    The tokenizer, which needs neither labels nor text.

    A feature pyramid of a frozen CLIP, a codebook per level, and a shared decoder back to pixels and to CLIP's own
    embeddings (paper, abstract; sizes and wiring are our choice).
    """

    input_modalities: tuple[str, ...] = ("image",)

    def __init__(self, config: PatConfig):
        super().__init__(config)
        # PAT's own modules first: transformers' helpers take the first block they find for the one that trains.
        self.encoders = nn.ModuleList([PatLevelEncoder(config, level) for level in range(config.num_levels)])
        self.codebooks = PatCodebooks(config)
        self.decoder = PatDecoder(config)
        self.pixels_per_cell = round(config.vision_config.patch_size * config.level_strides[-1])
        self.pixel_head = nn.Linear(config.hidden_size, 3 * self.pixels_per_cell**2)
        self.patch_head = nn.Linear(config.hidden_size, config.projection_dim)
        self.image_head = nn.Linear(config.hidden_size, config.projection_dim)
        self.vision_model = CLIPVisionModel._from_config(config.vision_config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.post_init()
        self.freeze_clip()

    def get_input_embeddings(self) -> nn.Module:
        """The convolution that embeds patches, as in CLIP's vision tower."""
        return self.vision_model.embeddings.patch_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the convolution that embeds patches."""
        self.vision_model.embeddings.patch_embedding = value

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        noise: torch.FloatTensor | None = None,
        output_hidden_states: bool | list[int] | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> PatModelOutput:
        """
        Tokenise, decode, and compare: the whole training objective of the tokenizer.

        Args:
            pixel_values: (batch, 3, H, W), normalised as CLIP expects; any H and W.
            noise: (batch,) numbers from 0 to 1 that choose, in training, which levels the decoder sees of each image;
                random by default. Mainly used for testing and for exact resumption.
            output_hidden_states: Whether to return the vision tower's hidden states, or the indices of some.
            output_attentions: Whether to return the vision tower's attention weights; needs eager attention.
            **kwargs: transformers' general keywords, such as `return_dict`; others are refused.

        Raises:
            ValueError: If `pixel_values` is not (batch, 3, H, W).
            TypeError: If a keyword is unknown.
        """
        check_forward_kwargs(self.forward, kwargs)
        # The frozen tower: tapped layers, dense patch embeddings, image embedding.
        features = self.extract_features(pixel_values, True, output_hidden_states, output_attentions)
        # One set of codes per level, composed from fine to coarse.
        pyramid = self.tokenize(features)
        # Back from the codes to pixels and embeddings, and how far they are from the originals.
        output = self.reconstruct(pixel_values, features, pyramid, noise)
        output.hidden_states, output.attentions = features.hidden_states, features.attentions
        return output

    def extract_features(
        self,
        pixel_values: torch.Tensor,
        with_image_embeds: bool = False,
        output_hidden_states: bool | list[int] | None = None,
        output_attentions: bool | None = None,
    ) -> ClipFeatures:
        """
        Compute the frozen CLIP's features, without gradient.

        Args:
            pixel_values: (batch, 3, H, W), any H and W; padded to whole patches by repeating the border.
            with_image_embeds: Whether to compute CLIP's image embedding too.
            output_hidden_states: Whether to keep all hidden states; by default as the configuration says.
            output_attentions: Whether to keep all attention weights; by default as the configuration says.

        Raises:
            ValueError: If `pixel_values` is not (batch, 3, H, W).
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3 or 0 in pixel_values.shape:
            raise ValueError(f"pixel_values must be (batch, 3, height, width), got {tuple(pixel_values.shape)}.")
        config = self.config
        return extract_clip_features(
            self.vision_model,
            self.visual_projection,
            pad_to_patches(pixel_values.to(self.visual_projection.weight.dtype), config.vision_config.patch_size),
            layers={layer for level in config.feature_layers for layer in level},
            dense_attention=config.dense_attention,
            with_image_embeds=with_image_embeds,
            output_hidden_states=config.output_hidden_states if output_hidden_states is None else output_hidden_states,
            output_attentions=config.output_attentions if output_attentions is None else output_attentions,
        )

    def tokenize(self, features: ClipFeatures) -> QuantizedPyramid:
        """Quantise the pyramid, composed from fine to coarse."""
        finer = None
        to_quantize: list[torch.Tensor] = []
        for encoder in reversed(self.encoders):
            finer, level_features = encoder(features.taps, finer)
            to_quantize.insert(0, level_features)
        return self.codebooks.quantize(to_quantize, self.pixel_head.weight.dtype)

    def reconstruct(
        self,
        pixel_values: torch.Tensor,
        features: ClipFeatures,
        pyramid: QuantizedPyramid,
        noise: torch.Tensor | None = None,
    ) -> PatModelOutput:
        """Decode the pyramid of (batch, 3, H, W) pixels with gradient; compare with them and CLIP's embeddings."""
        if noise is None:
            noise = torch.rand(len(pixel_values), device=pixel_values.device)
        decoded = self.decoder(pyramid.vectors, self._choose_levels(noise))
        reconstruction = self.to_pixels(decoded)[..., : pixel_values.shape[-2], : pixel_values.shape[-1]]
        patch_embeds = self.to_patch_embeds(decoded, features.dense_embeds.shape[1:3])
        image_embeds = self.to_image_embeds(decoded)
        pixel_error = reconstruction_loss(reconstruction, pixel_values)
        feature_error = feature_loss(patch_embeds, image_embeds, features)
        usage, perplexity = self.codebooks.statistics(pyramid.codes) if self.training else (None, None)
        return PatModelOutput(
            loss=self.config.reconstruction_loss_weight * pixel_error
            + self.config.feature_loss_weight * feature_error
            + self.config.commitment_loss_weight * pyramid.commitment_loss,
            reconstruction=reconstruction,
            codes=pyramid.codes,
            patch_embeds=patch_embeds,
            image_embeds=image_embeds,
            reconstruction_loss=pixel_error,
            feature_loss=feature_error,
            commitment_loss=pyramid.commitment_loss,
            codebook_usage=usage,
            codebook_perplexity=perplexity,
        )

    def _choose_levels(self, noise: torch.Tensor) -> torch.Tensor | None:
        """Hide the finest levels of images whose `noise` is small, so that any prefix of levels decodes."""
        num_levels, dropout = self.config.num_levels, self.config.level_dropout
        if not self.training or num_levels == 1 or dropout == 0:
            return None
        kept = torch.where(noise < dropout, 1 + (noise / dropout * (num_levels - 1)).long(), num_levels)
        return torch.arange(num_levels, device=noise.device) < kept[:, None]

    def encode(self, pixel_values: torch.Tensor) -> PatEncoderOutput:
        """
        Turn images into codes.

        Args:
            pixel_values: (batch, 3, H, W), any H and W; padded to whole patches by repeating the border.

        Returns:
            [`PatEncoderOutput`] whose `codes` hold (batch, rows, columns) int64 per level, coarsest first.

        Raises:
            ValueError: If `pixel_values` is not (batch, 3, H, W).
        """
        return PatEncoderOutput(codes=self.tokenize(self.extract_features(pixel_values)).codes)

    def decode(self, codes, num_levels: int | None = None, output_size: tuple[int, int] | None = None) -> torch.Tensor:
        """
        Turn codes into pixels.

        Args:
            codes: Codes of all levels, or of the coarsest few: the output of [`encode`], or per level a tensor, an
                array or nested lists of integers, (batch, rows, columns).
            num_levels: Decode only that many of the coarsest levels ("top-down visualization").
            output_size: Height and width of the image in pixels. Needed if it was not a whole number of patches, and
                for a prefix of the levels if it was not a whole number of their cells.

        Returns:
            (batch, 3, H, W), in the range of `pixel_values`.

        Raises:
            ValueError: If codes are out of range, or shapes or the number of levels do not fit.
        """
        decoded, _ = self.decode_features(codes, num_levels, output_size)
        pixels = self.to_pixels(decoded)
        return pixels if output_size is None else pixels[..., : output_size[0], : output_size[1]]

    def get_patch_embeds(
        self, codes, num_levels: int | None = None, output_size: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """Decode unit-length patch embeddings, (batch, height, width, projection_dim). Args: see [`decode`]."""
        return self.to_patch_embeds(*self.decode_features(codes, num_levels, output_size))

    def get_image_embeds(self, codes, num_levels: int | None = None) -> torch.Tensor:
        """Decode unit-length image embeddings, (batch, projection_dim). Args: see [`decode`]."""
        return self.to_image_embeds(self.decode_features(codes, num_levels)[0])

    def decode_features(
        self, codes, num_levels: int | None = None, output_size: tuple[int, int] | None = None
    ) -> tuple[torch.Tensor, tuple[int, int]]:
        """
        Run the shared decoder on stored codes. Args: see [`decode`].

        Returns:
            (batch, rows, columns, hidden_size) on the finest grid, and the height and width of the patch grid.

        Raises:
            ValueError: If codes are out of range, or shapes or the number of levels do not fit.
        """
        levels, config = read_codes(codes, self.device), self.config
        num_levels = len(levels) if num_levels is None else num_levels
        if not 1 <= num_levels <= len(levels) <= config.num_levels:
            raise ValueError(
                f"Expected 1 to {config.num_levels} levels of codes and to decode at most those, got "
                f"{len(levels)} levels and num_levels={num_levels}."
            )
        if output_size is None:
            rows, columns = (round(side * config.level_strides[len(levels) - 1]) for side in levels[-1].shape[1:])
        else:
            rows, columns = (-(-side // config.vision_config.patch_size) for side in output_size)
        grids = [level_grid((rows, columns), stride) for stride in config.level_strides]
        vectors = [level.to(self.pixel_head.weight.dtype) for level in self.codebooks.look_up(levels, grids)]
        keep = torch.arange(config.num_levels, device=self.device) < num_levels
        return self.decoder(vectors, keep.expand(len(levels[0]), -1)), (rows, columns)

    def to_pixels(self, decoded: torch.Tensor) -> torch.Tensor:
        """Decoded features (batch, rows, columns, hidden_size) to pixels (batch, 3, H, W)."""
        return pixel_shuffle(self.pixel_head(decoded), self.pixels_per_cell).permute(0, 3, 1, 2)

    def to_patch_embeds(self, decoded: torch.Tensor, patch_grid: tuple[int, int]) -> torch.Tensor:
        """Decoded features to unit-length patch embeddings, (batch, *patch_grid, projection_dim)."""
        config = self.config
        patches = to_patch_grid(decoded, config.cells_per_patch, config.patches_per_cell, patch_grid)
        return F.normalize(self.patch_head(patches), dim=-1)

    def to_image_embeds(self, decoded: torch.Tensor) -> torch.Tensor:
        """Decoded features to unit-length image embeddings, (batch, projection_dim)."""
        return F.normalize(self.image_head(decoded.mean(dim=(1, 2))), dim=-1)


class PatForSemanticSegmentation(TextEmbeddingMixin, PatPreTrainedModel):
    """
    Open-vocabulary segmentation: words by CLIP's text tower, patches by its vision tower, guided by PAT's codes.

    With `config.token_guidance=False` it is the baseline segmenter, with nothing else changed.
    """

    def __init__(self, config: PatConfig):
        super().__init__(config)
        self.pat = PatModel(config)
        self.segmenter = PatSegmenter(config)
        self.text_model = CLIPTextModel._from_config(config.text_config)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        # A buffer, unlike in CLIPModel: it is never trained, and FSDP2 refuses scalar parameters.
        self.register_buffer("logit_scale", torch.tensor(float(config.logit_scale_init_value)))
        baked = torch.zeros(config.num_labels, config.projection_dim) if config.vocabulary_baked else None
        self.register_buffer("class_embeds", baked)
        self.text_cache = TextEmbeddingCache()
        self.post_init()
        self.freeze_clip()

    def get_input_embeddings(self) -> nn.Module:
        """The convolution that embeds patches, as in CLIP's vision tower."""
        return self.pat.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the convolution that embeds patches."""
        self.pat.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.FloatTensor,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        prompt_labels: torch.LongTensor | None = None,
        text_embeds: torch.Tensor | None = None,
        pixel_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        noise: torch.FloatTensor | None = None,
        output_hidden_states: bool | list[int] | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> PatSegmentationOutput:
        """
        Segment images by words, which come as `input_ids`, as `text_embeds`, or from the baked vocabulary.

        Args:
            pixel_values: (batch, 3, H, W), normalised as CLIP expects; any H and W.
            input_ids: (num_prompts, length), as [`PatProcessor`] makes them.
            attention_mask: (num_prompts, length), 1 for tokens and 0 for padding.
            prompt_labels: (num_prompts,) int64, the label that each prompt belongs to; one label each by default.
            text_embeds: (num_labels, projection_dim), see [`get_text_embeds`].
            pixel_mask: (batch, H, W), 1 where the image is, for images of different sizes padded at right and bottom.
            labels: (batch, H, W) int64 label ids, `config.semantic_loss_ignore_index` is skipped.
            noise: (batch,), see [`PatModel.forward`].
            output_hidden_states: Whether to return the vision tower's hidden states, or the indices of some.
            output_attentions: Whether to return the vision tower's attention weights; needs eager attention.
            **kwargs: transformers' general keywords, such as `return_dict`; others are refused.

        Raises:
            ValueError: If no words are given, or shapes or label ids do not fit.
            TypeError: If a keyword is unknown.
        """
        check_forward_kwargs(self.forward, kwargs)
        text_embeds = self.resolve_text_embeds(input_ids, attention_mask, prompt_labels, text_embeds)
        if labels is not None:
            check_label_maps(labels, pixel_values, len(text_embeds), self.config.semantic_loss_ignore_index)
        if pixel_mask is not None and not bool(pixel_mask.all()):
            if self.training and labels is not None:
                check_one_size_when_distributed()

            def segment(pixel_values, labels, noise):
                return self.segment_images(pixel_values, text_embeds, labels, noise)

            return segment_by_size(segment, pixel_values, pixel_mask, labels, noise)
        return self.segment_images(pixel_values, text_embeds, labels, noise, output_hidden_states, output_attentions)

    def segment_images(
        self,
        pixel_values: torch.Tensor,
        text_embeds: torch.Tensor,
        labels: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        output_hidden_states: bool | list[int] | None = None,
        output_attentions: bool | None = None,
    ) -> PatSegmentationOutput:
        """Segment images of one size. Arguments as in [`forward`], already checked."""
        size, config, has_labels = pixel_values.shape[-2:], self.config, labels is not None
        # The frozen tower: tapped layers and dense patch embeddings, and for the loss the image embedding.
        features = self.pat.extract_features(pixel_values, has_labels, output_hidden_states, output_attentions)
        # The codes, which the baseline needs for the tokenizer's loss alone.
        pyramid = self.pat.tokenize(features) if config.token_guidance or has_labels else None
        # What the shared decoder makes of all levels guides the segmenter; its gradient stops at the codes.
        tokens = None
        if config.token_guidance and pyramid is not None:
            coupled = config.segmentation_updates_codes
            tokens = self.pat.decoder([level if coupled else level.detach() for level in pyramid.vectors])
        guidance = self.segmenter.guide(tokens, features.dense_embeds)
        if not has_labels:  # those of a large photo are large, and the loss alone needs them again
            features.taps.clear()
            tokens = None
        logits = self._segment(features.dense_embeds, text_embeds, guidance, size)
        # The loss: segmentation of the image, the same from its codes alone, the residual's, the tokenizer's own.
        losses: dict[str, torch.Tensor] = {}
        if has_labels and pyramid is not None:
            ignore_index = config.semantic_loss_ignore_index
            losses["segmentation_loss"] = segmentation_loss(logits, labels, ignore_index)
            losses["code_segmentation_loss"] = losses["residual_loss"] = text_embeds.new_zeros(())
            if guidance is not None and guidance.residual is not None:
                losses["residual_loss"] = residual_loss(
                    guidance.residual, config.embedding_residual_bound, labels, ignore_index
                )
            if tokens is not None and config.code_segmentation_loss_weight != 0:
                patch_embeds = self.pat.to_patch_embeds(tokens, features.dense_embeds.shape[1:3])
                code_guidance = self.segmenter.guide(tokens, patch_embeds)
                code_logits = self._segment(patch_embeds, text_embeds, code_guidance, size)
                losses["code_segmentation_loss"] = segmentation_loss(code_logits, labels, ignore_index)
            reconstructed = self.pat.reconstruct(pixel_values, features, pyramid, noise)
            losses["loss"] = (
                config.segmentation_loss_weight * losses["segmentation_loss"]
                + config.code_segmentation_loss_weight * losses["code_segmentation_loss"]
                + config.residual_loss_weight * losses["residual_loss"]
                + reconstructed.loss
                # The learned background has a gradient even if the caller does without it, as DDP demands.
                + 0.0 * self.segmenter.background_embed.sum()
            )
            losses.update(
                (name, reconstructed[name]) for name in LOSS_FIELDS if name in reconstructed and name != "loss"
            )
        return PatSegmentationOutput(
            logits=logits,
            codes=None if pyramid is None else pyramid.codes,
            hidden_states=features.hidden_states,
            attentions=features.attentions,
            **losses,
        )

    def segment_codes(
        self, codes, text_embeds: torch.Tensor | None = None, output_size: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """
        Segment from stored codes: no image, and CLIP's vision tower does not run.

        Args:
            codes: As [`PatModel.encode`] returned them, or see [`PatModel.decode`].
            text_embeds: (num_labels, projection_dim); the baked vocabulary by default.
            output_size: Height and width of the image in pixels, see [`PatModel.decode`].

        Returns:
            Logits (batch, num_labels, h, w), of the size that [`forward`] gives for the image.

        Raises:
            ValueError: If there are no words, codes are out of range, or shapes do not fit.
        """
        text_embeds = self.resolve_text_embeds(text_embeds=text_embeds)
        decoded, patch_grid = self.pat.decode_features(codes, output_size=output_size)
        patch_embeds = self.pat.to_patch_embeds(decoded, patch_grid)
        guidance = self.segmenter.guide(decoded, patch_embeds)
        return self._segment(patch_embeds, text_embeds, guidance, output_size)

    def segment_windows(
        self, pixel_values: torch.Tensor, window_size: int, stride: int, text_embeds: torch.Tensor | None = None
    ) -> PatSegmentationOutput:
        """
        Segment large images window by window and average the logits where windows overlap.

        Args:
            pixel_values: (batch, 3, H, W).
            window_size: Side of the square windows in pixels, a multiple of the patch size.
            stride: Step between windows in pixels, a multiple of the patch size, at most `window_size`.
            text_embeds: (num_labels, projection_dim); the baked vocabulary by default.

        Raises:
            ValueError: If the sizes are not multiples of the patch size or leave gaps, or there are no words.
        """
        patch_size = self.config.vision_config.patch_size
        if window_size % patch_size or stride % patch_size or not 0 < stride <= window_size:
            raise ValueError(
                f"window_size and stride must be multiples of the patch size {patch_size}, with stride at most "
                f"window_size; got {window_size} and {stride}."
            )
        text_embeds = self.resolve_text_embeds(text_embeds=text_embeds)
        logits = segment_by_windows(
            lambda window: self.segment_images(window, text_embeds).logits,
            pad_to_patches(pixel_values, patch_size),
            window_size,
            stride,
        )
        return PatSegmentationOutput(logits=crop_to_image(logits, pixel_values.shape[-2:], patch_size))

    def _segment(
        self,
        dense_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        guidance: Guidance | None,
        image_size: tuple[int, int] | None,
    ) -> torch.Tensor:
        """Logits of the segmenter, without the image's padding if its size is known."""
        logits = self.segmenter(dense_embeds, text_embeds, self.logit_scale.exp(), guidance)
        return (
            logits if image_size is None else crop_to_image(logits, image_size, self.config.vision_config.patch_size)
        )


__all__ = ["PatForSemanticSegmentation", "PatModel", "PatPreTrainedModel"]
