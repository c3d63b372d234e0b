"""Configuration of PAT: the CLIP, the pyramid levels, the codebooks, the guidance of the segmenter."""

from dataclasses import fields
from typing import TYPE_CHECKING, Literal

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig

from .transformers_internals_pat import without_custom_pipelines


@strict
class PatConfig(PreTrainedConfig):
    """
    Configuration of [`PatModel`] and [`PatForSemanticSegmentation`].

    The paper (arXiv 2412.14145) publishes no numbers that could be read, so every default below is our choice.
    Levels are always listed from the coarsest to the finest.

    Args:
        vision_config (`dict` or `CLIPVisionConfig`): The frozen CLIP vision tower.
        text_config (`dict` or `CLIPTextConfig`): The frozen CLIP text tower.
        projection_dim (`int`): Dimension of CLIP's joint image-text space.
        logit_scale_init_value (`float`): Logarithm of CLIP's temperature, before a checkpoint is loaded.
        clip_name_or_path (`str`, *optional*): The CLIP checkpoint that the towers came from.
        clip_revision (`str`, *optional*): Its revision on the Hub.
        clip_fingerprint (`str`, *optional*): Hash that tells its weights from those of other CLIPs of the same shape.
        clip_saved (`bool`): Whether the checkpoint holds CLIP's weights. If not, they are fetched on load.
        dense_attention (`"self_self"` or `"standard"`): How the last CLIP block yields patch features. `"self_self"`
            is query-query attention without residual and feed-forward (ClearCLIP), which makes the features of an
            image-level CLIP usable per patch. `"standard"` is the block as it is, for a CLIP trained per patch.
        feature_layers (`list[list[int]]`, *optional*): CLIP layers read by each level, counted from 1. By default the
            last; three quarters and the last; a quarter and a half of the tower.
        level_strides (`list[float]`): Stride of each level in patches: 2, 1 or 0.5, never growing.
        codebook_sizes (`list[int]`): Number of codes of each level.
        codebook_dim (`int`): Dimension of a code, which lies on the unit sphere.
        codebook_decay (`float`): Decay of the moving averages that update the codes, between 0 and 1.
        quantize (`bool`): Whether features are replaced by their codes. `False` lets the continuous features pass, to
            see what quantisation costs; what is decoded from stored codes means nothing then.
        hidden_size (`int`): Width of the level encoders and of the shared decoder.
        num_decoder_blocks (`int`): Convolutional blocks of the decoder at each level.
        level_dropout (`float`): Share of training images whose finest levels are hidden from the decoder.
        token_guidance (`bool`): Whether the codes guide the segmenter. `False` is the baseline, nothing else changed.
        guidance_source (`"codes"` or `"dense"`): What guides it: the decoded codes, or for comparison CLIP's own
            patch embeddings, with nothing else changed.
        embedding_residual_bound (`float`): Largest norm of what the guidance adds to the patch embeddings, which have
            length 1; 0 for no such residual.
        segmentation_updates_codes (`bool`): Whether the segmentation loss reaches the level encoders. The paper's
            branches are "loosely coupled", hence `False`.
        segmenter_channels (`int`): Width of the network that refines the similarity maps, shared by all labels.
        num_segmenter_blocks (`int`): Its blocks at the stride of the patches.
        num_segmenter_heads (`int`): Attention heads of each block.
        max_refined_labels (`int`): Labels per image that are refined, those of highest similarity anywhere in it; also
            the most words of a training batch.
        segmentation_loss_weight, code_segmentation_loss_weight, residual_loss_weight, reconstruction_loss_weight,
            feature_loss_weight, commitment_loss_weight (`float`): Weights of the parts of the loss.
        semantic_loss_ignore_index (`int`): Label that the segmentation loss skips. Must not be a class id: with more
            than 255 classes use 65535.
        vocabulary_baked (`bool`): Whether class embeddings for `id2label` are part of the checkpoint. Set by
            [`PatForSemanticSegmentation.set_vocabulary`].
        initializer_range (`float`): Standard deviation of new weights.

    Raises:
        ValueError: If the levels do not fit together or a layer does not exist.
    """

    model_type = "pat"
    sub_configs_defaults = {"vision_config": CLIPVisionConfig, "text_config": CLIPTextConfig}

    if TYPE_CHECKING:  # as they are after `__post_init__`
        vision_config: CLIPVisionConfig
        text_config: CLIPTextConfig
        feature_layers: list | tuple
    else:
        vision_config: dict | CLIPVisionConfig | None = None
        text_config: dict | CLIPTextConfig | None = None
        feature_layers: list | tuple | None = None
    projection_dim: int = 512
    logit_scale_init_value: float | int = 2.6592
    clip_name_or_path: str | None = None
    clip_revision: str | None = None
    clip_fingerprint: str | None = None
    clip_saved: bool = True
    dense_attention: Literal["self_self", "standard"] = "self_self"
    level_strides: list | tuple = (2, 1, 0.5)
    codebook_sizes: list | tuple = (512, 512, 512)
    codebook_dim: int = 32
    codebook_decay: float | int = 0.99
    quantize: bool = True
    hidden_size: int = 256
    num_decoder_blocks: int = 2
    level_dropout: float | int = 0.5
    token_guidance: bool = True
    guidance_source: Literal["codes", "dense"] = "codes"
    embedding_residual_bound: float | int = 0.25
    segmentation_updates_codes: bool = False
    segmenter_channels: int = 64
    num_segmenter_blocks: int = 2
    num_segmenter_heads: int = 4
    max_refined_labels: int = 32
    segmentation_loss_weight: float | int = 1.0
    code_segmentation_loss_weight: float | int = 0.5
    residual_loss_weight: float | int = 5.0
    reconstruction_loss_weight: float | int = 1.0
    feature_loss_weight: float | int = 1.0
    commitment_loss_weight: float | int = 0.25
    semantic_loss_ignore_index: int = 255
    vocabulary_baked: bool = False
    initializer_range: float = 0.02

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """
        Build the configuration from the content of a `config.json`, as in transformers.

        Raises:
            ValueError: If a field has the wrong type or the fields do not fit together.
        """
        try:
            return super().from_dict(without_custom_pipelines(config_dict, cls), **kwargs)
        except StrictDataclassError as error:
            raise ValueError(f"config.json is damaged: {' '.join(str(error).split())}") from None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.feature_layers is None:
            last = self.vision_config.num_hidden_layers
            quarter, half, three_quarters = (max(1, round(last * part / 4)) for part in (1, 2, 3))
            self.feature_layers = [[last], [three_quarters, last], [quarter, half]]

    @property
    def num_levels(self) -> int:
        """Number of pyramid levels."""
        return len(self.level_strides)

    @property
    def cells_per_patch(self) -> int:
        """Cells of the finest level along a patch's side: 2 for a stride of half a patch, else 1."""
        return max(1, round(1 / self.level_strides[-1]))

    @property
    def patches_per_cell(self) -> int:
        """Patches along the side of a cell of the finest level: 2 for a stride of two patches, else 1."""
        return max(1, round(self.level_strides[-1]))

    @property
    def num_hidden_layers(self) -> int:
        """Depth of the vision tower, which is what transformers' helpers take for the model's depth."""
        return self.vision_config.num_hidden_layers

    def validate_architecture(self):
        """Check that levels, layers, codebooks and patch size fit together."""
        lengths = {len(self.feature_layers), len(self.level_strides), len(self.codebook_sizes)}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(
                "feature_layers, level_strides and codebook_sizes need one entry per level each, got "
                f"{len(self.feature_layers)}, {len(self.level_strides)} and {len(self.codebook_sizes)}."
            )
        if any(stride not in (2, 1, 0.5) for stride in self.level_strides):
            raise ValueError(f"level_strides must be 2, 1 or 0.5 patches, got {list(self.level_strides)}.")
        if list(self.level_strides) != sorted(self.level_strides, reverse=True):
            raise ValueError(f"level_strides must go from coarse to fine, got {list(self.level_strides)}.")
        for name in ("hidden_size", "codebook_dim", "segmenter_channels", "num_segmenter_heads", "max_refined_labels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        self._check_clip_fields()
        if self.vision_config.patch_size % 2:
            raise ValueError(f"The patch size must be even, got {self.vision_config.patch_size}.")
        if not all(self.feature_layers):
            raise ValueError(f"Every level of feature_layers needs at least one layer, got {self.feature_layers}.")
        layers = {layer for level in self.feature_layers for layer in level}
        if min(layers) < 1 or max(layers) > self.vision_config.num_hidden_layers:
            raise ValueError(
                f"feature_layers must lie between 1 and {self.vision_config.num_hidden_layers}, got "
                f"{self.feature_layers}."
            )
        if self.segmenter_channels % (2 * self.num_segmenter_heads):
            raise ValueError(
                f"segmenter_channels must be a multiple of twice num_segmenter_heads, got {self.segmenter_channels} "
                f"and {self.num_segmenter_heads}."
            )
        if self.embedding_residual_bound < 0:
            raise ValueError(f"embedding_residual_bound must not be negative, got {self.embedding_residual_bound}.")
        if min(self.codebook_sizes) < 1:
            raise ValueError(f"codebook_sizes must be at least 1, got {list(self.codebook_sizes)}.")
        if not 0 <= self.codebook_decay < 1:
            raise ValueError(f"codebook_decay must be at least 0 and below 1, got {self.codebook_decay}.")

    def _check_clip_fields(self):
        """Refuse what CLIP's own configurations let through and its modules fail on: null, or a list of ids."""
        for part in (self.vision_config, self.text_config):
            for field in fields(part):
                needed = field.default is not None and field.name not in ("bos_token_id", "pad_token_id")
                value = getattr(part, field.name)
                if needed and not isinstance(value, (type(field.default), int, float)):
                    raise ValueError(f"{part.model_type}: {field.name} can't be {value!r}.")


__all__ = ["PatConfig"]
