"""PAT's models: `PatModel` turns images into tokens and back, `PatForSemanticSegmentation` asks them for words."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from transformers import CLIPModel, CLIPTextModel, CLIPVisionModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from .checkpoint_pat import CheckpointMixin, read_clip
from .clip_features_pat import ClipFeatures, extract_clip_features, pad_to_patches
from .codebook_pat import PatCodebook, code_statistics
from .configuration_pat import PatConfig
from .layers_pat import PatDecoder, PatLevelEncoder, ZeroLinear, average_pool, level_grid, pixel_shuffle
from .outputs_pat import LOSS_FIELDS, PatEncoderOutput, PatModelOutput, PatSegmentationOutput
from .prompts_pat import check_labels
from .segmenter_pat import PatSegmenter, PatTokenVote


@dataclass
class Tokens:
    """Quantised pyramid of one batch: straight-through vectors and codes per level, and the commitment loss."""

    quantized: list[torch.Tensor]
    codes: tuple[torch.LongTensor, ...]
    commitment_loss: torch.Tensor


class PatPreTrainedModel(CheckpointMixin, PreTrainedModel):
    """What both models share: CLIP's towers stay frozen and in eval mode, whatever happens to the model."""

    config: PatConfig
    config_class = PatConfig
    base_model_prefix = "pat"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _no_split_modules = ["CLIPEncoderLayer", "CLIPVisionEmbeddings", "CLIPTextEmbeddings", "PatBlock"]
    # Statistics of moving averages lose small steps in half precision.
    _keep_in_fp32_modules_strict = [
        "codebooks.*.embed",
        "codebooks.*.embed_sum",
        "codebooks.*.cluster_size",
        "codebooks.*.num_updates",
    ]
    # Top-level names of what comes from CLIP, as CLIPModel itself calls them.
    clip_modules = ("vision_model", "visual_projection", "text_model", "text_projection", "logit_scale")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if isinstance(module, PatCodebook):
            module.reset_buffers(init.copy_)
        elif isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
        elif isinstance(module, PatTokenVote):
            init.constant_(module.temperature, module.initial_temperature)
        elif isinstance(module, PatForSemanticSegmentation):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
            if module.class_embeds is not None:
                init.zeros_(module.class_embeds)

    def freeze_clip(self) -> None:
        """Exclude CLIP's weights from training, in eval mode. Called on construction and after loading."""
        for name, parameter in self.named_parameters():
            if self.is_clip_key(name):
                parameter.requires_grad_(False)
        self.train(self.training)

    @classmethod
    def is_clip_key(cls, name: str) -> bool:
        """Whether a parameter or buffer of this model belongs to the frozen CLIP."""
        return name.removeprefix("pat.").split(".")[0] in cls.clip_modules

    def train(self, mode: bool = True):
        """Set training mode for PAT's own modules; CLIP stays in eval mode."""
        super().train(mode)
        for name, module in self.named_children():
            if name in self.clip_modules:
                module.eval()
        return self

    @property
    def num_trainable_parameters(self) -> int:
        """Number of parameters that training changes: PAT's own, not CLIP's."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


class PatModel(PatPreTrainedModel):
    """
    The tokenizer: a feature pyramid of a frozen CLIP, a codebook per level, and a shared decoder back to pixels and
    to CLIP's own embeddings. Needs neither labels nor text (paper, abstract; sizes and wiring are our choice).
    """

    input_modalities = ("image",)

    def __init__(self, config: PatConfig):
        super().__init__(config)
        self.vision_model = CLIPVisionModel._from_config(config.vision_config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, config.projection_dim, bias=False)
        self.encoders = nn.ModuleList([PatLevelEncoder(config, level) for level in range(config.num_levels)])
        self.codebooks = nn.ModuleList(
            [
                PatCodebook(size, config.codebook_dim, config.codebook_decay, config.quantize)
                for size in config.codebook_sizes
            ]
        )
        self.decoder = PatDecoder(config)
        self.pixels_per_cell = round(config.vision_config.patch_size * config.level_strides[-1])
        self.pixel_head = nn.Linear(config.hidden_size, 3 * self.pixels_per_cell**2)
        self.patch_head = nn.Linear(config.hidden_size, config.projection_dim)
        self.image_head = nn.Linear(config.hidden_size, config.projection_dim)
        self.post_init()
        self.freeze_clip()

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_model.embeddings.patch_embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.vision_model.embeddings.patch_embedding = value

    @can_return_tuple
    def forward(
        self, pixel_values: torch.FloatTensor, noise: torch.FloatTensor | None = None, **kwargs
    ) -> PatModelOutput:
        """
        Tokenise, decode, and compare: the whole training objective of the tokenizer.

        Args:
            pixel_values: (batch, 3, H, W), normalised as CLIP expects; any H and W.
            noise: (batch,) numbers from 0 to 1 that choose, in training, which levels the decoder sees of each image;
                random by default. Mainly used for testing and for exact resumption.
        """
        features = self.extract_features(pixel_values, with_image_embeds=True)
        return self.reconstruct(pixel_values, features, self.tokenize(features), noise)

    def extract_features(self, pixel_values: torch.Tensor, with_image_embeds: bool = False) -> ClipFeatures:
        """
        The frozen CLIP's features, without gradient.

        Raises:
            ValueError: If `pixel_values` is not (batch, 3, H, W).
        """
        if pixel_values.ndim != 4 or pixel_values.shape[1] != 3 or 0 in pixel_values.shape:
            raise ValueError(f"pixel_values must be (batch, 3, height, width), got {tuple(pixel_values.shape)}.")
        return extract_clip_features(
            self.vision_model,
            self.visual_projection,
            pad_to_patches(pixel_values.to(self.visual_projection.weight.dtype), self.config.vision_config.patch_size),
            layers={layer for level in self.config.feature_layers for layer in level},
            dense_attention=self.config.dense_attention,
            with_image_embeds=with_image_embeds,
        )

    def tokenize(self, features: ClipFeatures) -> Tokens:
        """Quantise the pyramid, composed from fine to coarse."""
        finer, to_quantize = None, []
        for encoder in reversed(self.encoders):
            finer, level_features = encoder(features.taps, finer)
            to_quantize.insert(0, level_features)
        levels = [codebook(level) for codebook, level in zip(self.codebooks, to_quantize, strict=True)]
        quantized, codes, commitment_losses = zip(*levels, strict=True)
        dtype = self.pixel_head.weight.dtype
        return Tokens([vectors.to(dtype) for vectors in quantized], codes, torch.stack(commitment_losses).mean())

    def encode(self, pixel_values: torch.Tensor) -> PatEncoderOutput:
        """
        Image to codes.

        Args:
            pixel_values: (batch, 3, H, W), any H and W; padded to whole patches by repeating the border.

        Returns:
            [`PatEncoderOutput`] whose `codes` hold (batch, rows, columns) int64 per level, coarsest first.
        """
        return PatEncoderOutput(codes=self.tokenize(self.extract_features(pixel_values)).codes)

    def decode(
        self,
        codes: tuple[torch.LongTensor, ...],
        num_levels: int | None = None,
        output_size: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """
        Codes to pixels.

        Args:
            codes: Codes of all levels, or of the coarsest few.
            num_levels: Decode only that many of the coarsest levels ("top-down visualization").
            output_size: Height and width of the image. Needed if it was not a whole number of patches, and for a
                prefix of the levels if it was not a whole number of their cells.

        Returns:
            (batch, 3, H, W), in the range of `pixel_values`.

        Raises:
            ValueError: If codes are out of range, or shapes or the number of levels do not fit.
        """
        pixels = self._to_pixels(self.decoder(*self._look_up(codes, num_levels, output_size)))
        return pixels if output_size is None else pixels[..., : output_size[0], : output_size[1]]

    def get_patch_embeds(self, codes: tuple[torch.LongTensor, ...], num_levels: int | None = None) -> torch.Tensor:
        """CLIP's patch embeddings decoded from codes: unit length, (batch, height, width, projection_dim)."""
        return self._to_patch_embeds(self.decoder(*self._look_up(codes, num_levels)))

    def get_image_embeds(self, codes: tuple[torch.LongTensor, ...], num_levels: int | None = None) -> torch.Tensor:
        """CLIP's image embedding decoded from codes: unit length, (batch, projection_dim)."""
        return self._to_image_embeds(self.decoder(*self._look_up(codes, num_levels)))

    def reconstruct(
        self, pixel_values: torch.Tensor, features: ClipFeatures, tokens: Tokens, noise: torch.Tensor | None = None
    ) -> PatModelOutput:
        """Decode tokens with gradient and compare with the pixels and with CLIP's embeddings (features)."""
        if noise is None:
            noise = torch.rand(len(pixel_values), device=pixel_values.device)
        decoded = self.decoder(tokens.quantized, self._choose_levels(noise))
        reconstruction = self._to_pixels(decoded)[..., : pixel_values.shape[-2], : pixel_values.shape[-1]]
        patch_embeds, image_embeds = self._to_patch_embeds(decoded), self._to_image_embeds(decoded)
        reconstruction_loss = F.mse_loss(reconstruction.float(), pixel_values.float())
        patch_similarity = F.cosine_similarity(patch_embeds.float(), features.dense_embeds.detach().float(), dim=-1)
        image_similarity = F.cosine_similarity(image_embeds.float(), features.image_embeds.float(), dim=-1)
        feature_loss = (1 - patch_similarity).mean() + (1 - image_similarity).mean()
        usage, perplexity = self._code_statistics(tokens.codes)
        return PatModelOutput(
            loss=self.config.reconstruction_loss_weight * reconstruction_loss
            + self.config.feature_loss_weight * feature_loss
            + self.config.commitment_loss_weight * tokens.commitment_loss,
            reconstruction=reconstruction,
            codes=tokens.codes,
            patch_embeds=patch_embeds,
            image_embeds=image_embeds,
            reconstruction_loss=reconstruction_loss,
            feature_loss=feature_loss,
            commitment_loss=tokens.commitment_loss,
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

    def _look_up(
        self,
        codes: tuple[torch.LongTensor, ...],
        num_levels: int | None,
        output_size: tuple[int, int] | None = None,
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Vectors of all levels and which of them count; levels that are not given are zero."""
        num_levels = len(codes) if num_levels is None else num_levels
        if not 1 <= num_levels <= len(codes) <= self.config.num_levels:
            raise ValueError(
                f"Expected 1 to {self.config.num_levels} levels of codes and to decode at most those, got "
                f"{len(codes)} levels and num_levels={num_levels}."
            )
        grids = self._level_grids(codes, output_size)
        quantized = []
        for level, (codebook, grid) in enumerate(zip(self.codebooks, grids, strict=True)):
            if level >= len(codes):
                quantized.append(codebook.embed.new_zeros((len(codes[0]), *grid, codebook.dim)))
                continue
            self._check_codes(codes[level], level, (len(codes[0]), *grid))
            quantized.append(codebook.lookup(codes[level].long()))
        dtype = self.pixel_head.weight.dtype
        keep = torch.arange(self.config.num_levels, device=codes[0].device) < num_levels
        return [vectors.to(dtype) for vectors in quantized], keep.expand(len(codes[0]), -1)

    def _level_grids(
        self, codes: tuple[torch.LongTensor, ...], output_size: tuple[int, int] | None
    ) -> list[tuple[int, int]]:
        """Rows and columns of every level, by the image's size or else read off the finest level that is given."""
        if any(level.ndim != 3 for level in codes):
            shapes = [tuple(level.shape) for level in codes]
            raise ValueError(f"Codes of each level must be (batch, rows, columns), got {shapes}.")
        finest_stride = self.config.level_strides[len(codes) - 1]
        patch_grid = tuple(round(side * finest_stride) for side in codes[-1].shape[-2:])
        if output_size is not None:
            patch_grid = tuple(-(-side // self.config.vision_config.patch_size) for side in output_size)
        return [level_grid(patch_grid, stride) for stride in self.config.level_strides]

    def _check_codes(self, codes: torch.Tensor, level: int, shape: tuple[int, ...]) -> None:
        if tuple(codes.shape) != shape:
            raise ValueError(
                f"Codes of level {level} should be {shape} to fit the finer levels and output_size, got "
                f"{tuple(codes.shape)}."
            )
        if codes.is_floating_point() or codes.dtype == torch.bool:
            raise ValueError(f"Codes of level {level} must be integers, got {codes.dtype}.")
        size = self.codebooks[level].num_codes
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size:
            raise ValueError(
                f"Codes of level {level} must lie in 0..{size - 1}, got {int(codes.min())}..{int(codes.max())}: "
                "were they made by another model?"
            )

    def _to_pixels(self, decoded: torch.Tensor) -> torch.Tensor:
        return pixel_shuffle(self.pixel_head(decoded), self.pixels_per_cell).permute(0, 3, 1, 2)

    def _to_patch_embeds(self, decoded: torch.Tensor) -> torch.Tensor:
        cells_per_patch = max(1, round(1 / self.config.level_strides[-1]))
        return F.normalize(average_pool(self.patch_head(decoded), cells_per_patch), dim=-1)

    def _to_image_embeds(self, decoded: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.image_head(decoded.mean(dim=(1, 2))), dim=-1)

    def _code_statistics(self, codes: tuple[torch.LongTensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        counts = [
            torch.bincount(level.flatten(), minlength=codebook.num_codes)
            for level, codebook in zip(codes, self.codebooks, strict=True)
        ]
        usage, perplexity = zip(*map(code_statistics, counts), strict=True)
        return torch.stack(usage), torch.stack(perplexity)


class PatForSemanticSegmentation(PatPreTrainedModel):
    """
    Open-vocabulary segmentation: words by CLIP's text tower, patches by its vision tower, guided by PAT's tokens.

    With `config.token_guidance=False` it is the baseline segmenter, with nothing else changed.
    """

    # Prompts per forward of the text tower: enough for speed, bounded in memory for any vocabulary (our choice).
    text_batch_size = 256

    def __init__(self, config: PatConfig):
        super().__init__(config)
        self.pat = PatModel(config)
        self.text_model = CLIPTextModel._from_config(config.text_config)
        self.text_projection = nn.Linear(config.text_config.hidden_size, config.projection_dim, bias=False)
        # A buffer, unlike in CLIPModel: it is never trained, and FSDP2 refuses scalar parameters.
        self.register_buffer("logit_scale", torch.tensor(float(config.logit_scale_init_value)))
        self.segmenter = PatSegmenter(config)
        baked = torch.zeros(config.num_labels, config.projection_dim) if config.vocabulary_baked else None
        self.register_buffer("class_embeds", baked)
        self._text_cache: dict[tuple, torch.Tensor] = {}
        self.post_init()
        self.freeze_clip()

    def load_clip(self, clip: CLIPModel) -> None:
        super().load_clip(clip)
        self._text_cache.clear()

    def get_input_embeddings(self) -> nn.Module:
        return self.pat.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
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
        **kwargs,
    ) -> PatSegmentationOutput:
        """
        Segment images by words, which come as `input_ids`, as `text_embeds`, or from the baked vocabulary.

        Args:
            pixel_values: (batch, 3, H, W), normalised as CLIP expects; any H and W.
            input_ids, attention_mask: (num_prompts, length), as [`PatProcessor`] makes them.
            prompt_labels: (num_prompts,) int64, the label that each prompt belongs to; one label each by default.
            text_embeds: (num_labels, projection_dim), see [`get_text_embeds`].
            pixel_mask: (batch, H, W), 1 where the image is, for images of different sizes padded at right and bottom.
            labels: (batch, H, W) int64 label ids, `config.semantic_loss_ignore_index` is skipped.
            noise: (batch,), see [`PatModel.forward`].

        Raises:
            ValueError: If no words are given, or shapes or label ids do not fit.
        """
        text_embeds = self._resolve_text_embeds(input_ids, attention_mask, prompt_labels, text_embeds)
        if labels is not None:
            self._check_labels(labels, pixel_values, len(text_embeds))
        if pixel_mask is not None and not bool(pixel_mask.all()):
            return self._forward_mixed_sizes(pixel_values, pixel_mask, text_embeds, labels, noise)
        features = self.pat.extract_features(pixel_values, with_image_embeds=labels is not None)
        tokens = self.pat.tokenize(features) if self._needs_tokens(labels) else None
        decoded = self._decode_guidance(tokens)
        logits = self._segment(features.dense_embeds, decoded, text_embeds, pixel_values.shape[-2:])
        if labels is None:
            return PatSegmentationOutput(logits=logits, codes=tokens.codes if tokens else None)
        reconstructed = self.pat.reconstruct(pixel_values, features, tokens, noise)
        segmentation_loss = self._segmentation_loss(logits, labels)
        code_segmentation_loss = self._code_segmentation_loss(decoded, text_embeds, labels)
        return PatSegmentationOutput(
            loss=self.config.segmentation_loss_weight * segmentation_loss
            + self.config.code_segmentation_loss_weight * code_segmentation_loss
            + reconstructed.loss,
            logits=logits,
            codes=tokens.codes,
            segmentation_loss=segmentation_loss,
            code_segmentation_loss=code_segmentation_loss,
            reconstruction_loss=reconstructed.reconstruction_loss,
            feature_loss=reconstructed.feature_loss,
            commitment_loss=reconstructed.commitment_loss,
            codebook_usage=reconstructed.codebook_usage,
            codebook_perplexity=reconstructed.codebook_perplexity,
        )

    def segment_codes(
        self,
        codes: tuple[torch.LongTensor, ...],
        text_embeds: torch.Tensor | None = None,
        output_size: tuple[int, int] | None = None,
    ) -> torch.Tensor:
        """
        Segment from stored codes: no image, and CLIP's vision tower does not run.

        Args:
            codes: As [`PatModel.encode`] returned them.
            text_embeds: (num_labels, projection_dim); the baked vocabulary by default.
            output_size: Height and width of the image, if it was not a whole number of patches.

        Returns:
            Logits (batch, num_labels, h, w).
        """
        text_embeds = self._resolve_text_embeds(None, None, None, text_embeds)
        decoded = self.pat.decoder(*self.pat._look_up(codes, None, output_size))
        guidance = decoded if self.config.token_guidance else None
        return self._segment(self.pat._to_patch_embeds(decoded), guidance, text_embeds, output_size)

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
            ValueError: If the sizes are not multiples of the patch size or leave gaps.
        """
        patch_size = self.config.vision_config.patch_size
        if window_size % patch_size or stride % patch_size or not 0 < stride <= window_size:
            raise ValueError(
                f"window_size and stride must be multiples of the patch size {patch_size}, with stride at most "
                f"window_size; got {window_size} and {stride}."
            )
        image_size = pixel_values.shape[-2:]
        padded = pad_to_patches(pixel_values, patch_size)
        height, width = padded.shape[-2:]
        total = weight = None
        for top in window_starts(height, window_size, stride):
            for left in window_starts(width, window_size, stride):
                window = padded[..., top : top + window_size, left : left + window_size]
                logits = self(window, text_embeds=text_embeds).logits
                if total is None:
                    cell = window.shape[-2] // logits.shape[-2]
                    total = logits.new_zeros(*logits.shape[:2], height // cell, width // cell)
                    weight = logits.new_zeros(1, 1, height // cell, width // cell)
                rows = slice(top // cell, top // cell + logits.shape[-2])
                columns = slice(left // cell, left // cell + logits.shape[-1])
                total[..., rows, columns] += logits
                weight[..., rows, columns] += 1
        return PatSegmentationOutput(logits=self._crop_to_image(total / weight, image_size))

    @torch.no_grad()
    def get_text_embeds(self, labels: list[str], processor, templates: str | list[str] | None = None) -> torch.Tensor:
        """
        Class embeddings of any list of words, computed in batches and cached by label and templates.

        Args:
            labels: Words; ";" separates synonyms.
            processor: The checkpoint's [`PatProcessor`].
            templates: Name of a template set or templates of your own; the processor's by default.

        Returns:
            (num_labels, projection_dim), unit length, in the order of `labels`.

        Raises:
            ValueError: If the list is empty, or a label is empty, double or too long.
        """
        labels = check_labels(labels)
        chosen = processor.prompt_templates if templates is None else templates
        keys = [(label, chosen if isinstance(chosen, str) else tuple(chosen)) for label in labels]
        missing = [key for key in dict.fromkeys(keys) if key not in self._text_cache]
        if missing:
            inputs = processor(text=[label for label, _ in missing], prompt_templates=chosen, return_tensors="pt")
            embeds = self.encode_text(**inputs.to(self.device))
            self._text_cache.update(zip(missing, embeds, strict=True))
        return torch.stack([self._text_cache[key] for key in keys]).to(self.device, self.dtype)

    @torch.no_grad()
    def encode_text(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        prompt_labels: torch.LongTensor | None = None,
    ) -> torch.Tensor:
        """
        Prompts to class embeddings: the mean over all prompts of a label, of unit length.

        Returns:
            (num_labels, projection_dim).

        Raises:
            ValueError: If the token ids do not fit this text tower.
        """
        self._check_input_ids(input_ids)
        prompts = []
        for start in range(0, len(input_ids), self.text_batch_size):
            rows = slice(start, start + self.text_batch_size)
            mask = None if attention_mask is None else attention_mask[rows]
            pooled = self.text_model(input_ids=input_ids[rows], attention_mask=mask).pooler_output
            prompts.append(F.normalize(self.text_projection(pooled), dim=-1))
        prompts = torch.cat(prompts)
        if prompt_labels is None:
            return prompts
        sums = prompts.new_zeros(int(prompt_labels.max()) + 1, prompts.shape[1])
        return F.normalize(sums.index_add_(0, prompt_labels, prompts), dim=-1)

    def set_vocabulary(self, labels: list[str], processor, templates: str | list[str] | None = None) -> None:
        """
        Bake a fixed vocabulary into the model and its checkpoint, so that images alone are enough from then on.

        Writes `config.id2label`, `config.label2id` and the class embeddings. Arguments as in [`get_text_embeds`].
        """
        embeds = self.get_text_embeds(labels, processor, templates)
        names = [label.split(";")[0].strip() for label in labels]
        self.config.id2label = dict(enumerate(names))
        self.config.label2id = {name: index for index, name in enumerate(names)}
        self.config.vocabulary_baked = True
        self.class_embeds = embeds

    @classmethod
    def from_clip_pretrained(cls, clip_name_or_path: str, revision: str | None = None, **config_kwargs):
        """
        A new, untrained PAT around any CLIP ViT checkpoint in transformers' format.

        Args:
            clip_name_or_path: Hub name or local folder of a `CLIPModel`.
            revision: Branch, tag or commit on the Hub.
            **config_kwargs: Fields of [`PatConfig`].
        """
        clip = read_clip(clip_name_or_path, revision)
        config = PatConfig(
            vision_config=clip.config.vision_config.to_dict(),
            text_config=clip.config.text_config.to_dict(),
            projection_dim=clip.config.projection_dim,
            logit_scale_init_value=clip.logit_scale.item(),
            clip_name_or_path=str(clip_name_or_path),
            clip_revision=revision,
            **config_kwargs,
        )
        model = cls(config)
        model.load_clip(clip)
        return model.eval()

    def _needs_tokens(self, labels: torch.Tensor | None) -> bool:
        return self.config.token_guidance or labels is not None

    def _decode_guidance(self, tokens: Tokens | None) -> torch.Tensor | None:
        """What the shared decoder makes of all levels, for guidance; None for the baseline."""
        if not self.config.token_guidance:
            return None
        coupled = self.config.segmentation_updates_codes
        return self.pat.decoder([q if coupled else q.detach() for q in tokens.quantized])

    def _segment(
        self,
        dense_embeds: torch.Tensor,
        decoded: torch.Tensor | None,
        text_embeds: torch.Tensor,
        image_size: tuple[int, int] | None,
    ) -> torch.Tensor:
        logits = self.segmenter(dense_embeds, text_embeds, self.logit_scale.exp(), decoded)
        return logits if image_size is None else self._crop_to_image(logits, image_size)

    def _crop_to_image(self, logits: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
        """Resample logits of whole patches so that they cover the image and none of its padding."""
        patch_size = self.config.vision_config.patch_size
        if image_size[0] % patch_size == 0 and image_size[1] % patch_size == 0:
            return logits
        padded = [-(-side // patch_size) * patch_size for side in image_size]
        fraction = [image_size[0] / padded[0], image_size[1] / padded[1]]
        rows, columns = (max(1, round(side * part)) for side, part in zip(logits.shape[-2:], fraction, strict=True))
        # An affine grid over the image's share of the padded picture, which starts at its upper left corner.
        theta = logits.new_tensor([[fraction[1], 0, fraction[1] - 1], [0, fraction[0], fraction[0] - 1]])
        grid = F.affine_grid(theta[None], [1, 1, rows, columns], align_corners=False)
        return F.grid_sample(logits, grid.expand(len(logits), -1, -1, -1), padding_mode="border", align_corners=False)

    def _forward_mixed_sizes(
        self,
        pixel_values: torch.Tensor,
        pixel_mask: torch.Tensor,
        text_embeds: torch.Tensor,
        labels: torch.Tensor | None,
        noise: torch.Tensor | None,
    ) -> PatSegmentationOutput:
        """Run images of equal size together, each group without padding, so that nothing leaks between images."""
        if self.training and labels is not None and dist.is_available() and dist.is_initialized():
            # Processes with different numbers of groups would wait for each other in the codebook update.
            raise ValueError("Train on images of one size when several processes train together: crop them.")
        sizes = self._image_sizes(pixel_mask, pixel_values)
        outputs, shares = {}, {}
        for size in dict.fromkeys(sizes):
            members = [index for index, other in enumerate(sizes) if other == size]
            height, width = size
            output = self(
                pixel_values[members, :, :height, :width],
                text_embeds=text_embeds,
                labels=None if labels is None else labels[members, :height, :width],
                noise=None if noise is None else noise[members],
            )
            outputs.update({index: (output, row) for row, index in enumerate(members)})
            shares[size] = (output, len(members) / len(sizes))
        maps = [output.logits[row] for output, row in (outputs[index] for index in range(len(sizes)))]
        logits_sizes = torch.tensor([tuple(m.shape[-2:]) for m in maps], device=pixel_values.device)
        height, width = logits_sizes.amax(0).tolist()
        padded = [F.pad(m, (0, width - m.shape[-1], 0, height - m.shape[-2])) for m in maps]
        merged = PatSegmentationOutput(logits=torch.stack(padded), logits_sizes=logits_sizes)
        if labels is not None:
            for name in LOSS_FIELDS:
                merged[name] = sum(share * output[name] for output, share in shares.values())
        return merged

    @staticmethod
    def _image_sizes(pixel_mask: torch.Tensor, pixel_values: torch.Tensor) -> list[tuple[int, int]]:
        expected = (len(pixel_values), *pixel_values.shape[-2:])
        if tuple(pixel_mask.shape) != expected:
            raise ValueError(f"pixel_mask must be {expected} like pixel_values, got {tuple(pixel_mask.shape)}.")
        sizes = [(int(mask.any(1).sum()), int(mask.any(0).sum())) for mask in pixel_mask]
        for index, (height, width) in enumerate(sizes):
            if height == 0 or not bool(pixel_mask[index, :height, :width].all()):
                raise ValueError(f"pixel_mask must mark one upper left rectangle of each image, not so image {index}.")
        return sizes

    def _segmentation_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """
        Cross-entropy over the vocabulary at twice the logits' resolution, which bounds memory for many labels.

        The mean is taken per image first, so that the loss of a batch is the mean of its parts. Within an image a
        class counts by the square root of its pixels: mean IoU counts classes, not pixels (our choice).
        """
        size = [min(2 * side, full) for side, full in zip(logits.shape[-2:], labels.shape[-2:], strict=True)]
        logits = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
        labels = F.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
        ignore_index = self.config.semantic_loss_ignore_index
        losses = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none").flatten(1)
        valid = (labels != ignore_index).flatten(1)
        classes = labels.flatten(1).where(valid, 0)
        pixels = losses.new_zeros(logits.shape[:2]).scatter_add_(1, classes, valid.to(losses.dtype))
        weights = valid * pixels.gather(1, classes).clamp(min=1).rsqrt()
        return ((weights * losses).sum(1) / weights.sum(1).clamp(min=1)).mean()

    def _code_segmentation_loss(
        self, decoded: torch.Tensor | None, text_embeds: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        """The same for segmentation from the codes alone, where the decoded patch embeddings stand in for CLIP's."""
        if decoded is None or self.config.code_segmentation_loss_weight == 0:
            return text_embeds.new_zeros(())
        logits = self._segment(self.pat._to_patch_embeds(decoded), decoded, text_embeds, labels.shape[-2:])
        return self._segmentation_loss(logits, labels)

    def _resolve_text_embeds(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        prompt_labels: torch.Tensor | None,
        text_embeds: torch.Tensor | None,
    ) -> torch.Tensor:
        if input_ids is not None:
            return self.encode_text(input_ids, attention_mask, prompt_labels)
        if text_embeds is None:
            text_embeds = self.class_embeds
        if text_embeds is None:
            raise ValueError(
                "No words to segment by: pass input_ids (processor(text=[...])) or text_embeds "
                "(model.get_text_embeds), or call model.set_vocabulary once."
            )
        if text_embeds.ndim != 2 or text_embeds.shape[1] != self.config.projection_dim or not len(text_embeds):
            raise ValueError(
                f"text_embeds must be (num_labels, {self.config.projection_dim}), got {tuple(text_embeds.shape)}: "
                "they must come from this model's own text tower."
            )
        return text_embeds

    def _check_input_ids(self, input_ids: torch.Tensor) -> None:
        text_config = self.config.text_config
        highest = int(input_ids.max())
        # An id of 2 marks old CLIP configs, whose text tower looks for the highest token instead.
        has_end = text_config.eos_token_id == 2 or bool((input_ids == text_config.eos_token_id).any(1).all())
        if highest >= text_config.vocab_size or not has_end:
            raise ValueError(
                "These input_ids are not from this model's tokenizer: ids go to "
                f"{highest} and the text tower knows {text_config.vocab_size}, "
                f"end-of-text is {text_config.eos_token_id}."
            )

    def _check_labels(self, labels: torch.Tensor, pixel_values: torch.Tensor, num_labels: int) -> None:
        expected = (len(pixel_values), *pixel_values.shape[-2:])
        if tuple(labels.shape) != expected:
            raise ValueError(f"labels must be {expected} like pixel_values, got {tuple(labels.shape)}.")
        ignore_index = self.config.semantic_loss_ignore_index
        if 0 <= ignore_index < num_labels:
            raise ValueError(
                f"semantic_loss_ignore_index={ignore_index} is also one of the {num_labels} classes; "
                "set config.semantic_loss_ignore_index to 65535 and use it in the label maps."
            )
        found = labels[labels != ignore_index]
        if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < num_labels:
            raise ValueError(
                f"labels hold ids from {int(found.min())} to {int(found.max())}, but there are {num_labels} labels "
                f"(0..{num_labels - 1}) and {ignore_index} to ignore."
            )


def window_starts(length: int, window_size: int, stride: int) -> list[int]:
    """Where windows begin along one side; the last one ends at the border."""
    if length <= window_size:
        return [0]
    return [*range(0, length - window_size, stride), length - window_size]


__all__ = ["PatForSemanticSegmentation", "PatModel", "PatPreTrainedModel"]
