"""PAT's processor: photos and words in, the inputs of the model out."""

from transformers import AutoTokenizer, CLIPConfig
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from .hub_pat import AUTO_MAP, copy_code
from .image_processing_pil_pat import PatImageProcessorPil
from .prompts_pat import build_prompts, check_labels, resolve_templates, split_candidate_labels

if is_torchvision_available():
    from .image_processing_pat import PatImageProcessor
else:
    PatImageProcessor = PatImageProcessorPil  # type: ignore[assignment, misc]

# CLIP's text towers have this many positions; a tokenizer saved without a limit says a huge number.
MAX_PROMPT_TOKENS = 77


class PatProcessor(ProcessorMixin):
    """
    An image processor, a tokenizer and prompt templates in one.

    Args:
        image_processor: a `PatImageProcessor` or its PIL twin.
        tokenizer: the CLIP tokenizer of the checkpoint.
        prompt_templates: `"none"`, `"simple"` (one, the default), `"vild"` (14), `"imagenet"` (80), or a list of the
            caller's own, each with `{}` exactly once. Saved with the processor.

    Raises:
        `ValueError`: prompt templates that are none of these.
    """

    text_kwargs = {"padding": True}

    def __init__(self, image_processor=None, tokenizer=None, prompt_templates="simple", **kwargs):
        resolve_templates(prompt_templates)
        self.prompt_templates = prompt_templates if isinstance(prompt_templates, str) else list(prompt_templates)
        super().__init__(image_processor, tokenizer, **kwargs)

    @classmethod
    def from_clip_pretrained(cls, clip_name_or_path: str, revision: str | None = None, **kwargs):
        """
        The processor for a new PAT around a CLIP checkpoint: its tokenizer, its normalisation, its patch size.

        Args:
            clip_name_or_path: as in `PatForSemanticSegmentation.from_clip_pretrained`.
            revision: as there.
            **kwargs: fields of the image processor, such as `size`, and `prompt_templates`.
        """
        source = {"pretrained_model_name_or_path": clip_name_or_path, "revision": revision or "main"}
        clip_fields, _ = PatImageProcessorPil.get_image_processor_dict(**source)
        fields = {name: clip_fields[name] for name in ("image_mean", "image_std") if name in clip_fields}
        fields["size_divisor"] = CLIPConfig.from_pretrained(**source).vision_config.patch_size
        templates = kwargs.pop("prompt_templates", "simple")
        return cls(PatImageProcessor(**{**fields, **kwargs}), AutoTokenizer.from_pretrained(**source), templates)

    @property
    def model_input_names(self) -> list[str]:
        """Names of what the processor makes."""
        return [*super().model_input_names, "prompt_labels"]

    def __call__(
        self,
        images: ImageInput | None = None,
        text: list[str] | str | None = None,
        segmentation_maps=None,
        prompt_templates: str | list[str] | None = None,
        **kwargs,
    ) -> BatchFeature:
        """
        Prepare photos, labels or both.

        Args:
            images: photos, as the image processor takes them. May be omitted.
            text: the labels, a list or one comma-separated string; `"tree;bush"` is one label with two synonyms.
                May be omitted.
            segmentation_maps: one label map per photo, for training.
            prompt_templates: other templates than the processor's own, for this call.
            kwargs: keywords of the image processor and the tokenizer, such as `return_tensors="pt"`.

        Returns:
            For images `pixel_values` `(batch, 3, height, width)`, with `pixel_mask` `(batch, height, width)` if photos
            were padded, and `labels` `(batch, height, width)` if there were segmentation maps. For text `input_ids`
            and `attention_mask` `(num_prompts, length)`, and `prompt_labels` `(num_prompts,)`, the index of the label
            that each prompt belongs to: label by label, synonym by synonym, template by template.

        Raises:
            `ValueError`: neither images nor text; a label that is empty, repeated or too long for the text tower;
            whatever the image processor finds wrong.
        """
        if images is None and text is None:
            raise ValueError("give the processor images, text or both")
        if images is None and segmentation_maps is not None:
            raise ValueError("segmentation_maps need the images they belong to")
        merged = self._merge_kwargs(tokenizer_init_kwargs=getattr(self.tokenizer, "init_kwargs", {}), **kwargs)
        data = {}
        if images is not None:
            data.update(self.image_processor(images, segmentation_maps, **merged["images_kwargs"]))
        return_tensors = merged["text_kwargs"].pop("return_tensors", None)
        if text is not None:
            templates = self.prompt_templates if prompt_templates is None else prompt_templates
            data.update(self._tokenize(text, resolve_templates(templates), merged["text_kwargs"]))
        return BatchFeature(data, tensor_type=return_tensors)

    def _tokenize(self, text, templates: tuple[str, ...], text_kwargs: dict) -> dict:
        labels = check_labels(split_candidate_labels(text) if isinstance(text, str) else text)
        prompts, owners = build_prompts(labels, templates)
        # Quiet: what is too long is refused below, by its label.
        tokens = dict(self.tokenizer(prompts, verbose=False, **text_kwargs))
        if not text_kwargs.get("truncation"):
            self._check_lengths(tokens["attention_mask"], labels, owners)
        return {**tokens, "prompt_labels": owners}

    def _check_lengths(self, attention_mask: list[list[int]], labels: list[str], owners: list[int]):
        limit = min(self.tokenizer.model_max_length, MAX_PROMPT_TOKENS)
        for mask, owner in zip(attention_mask, owners, strict=True):
            if sum(mask) > limit:
                label = labels[owner] if len(labels[owner]) <= 60 else labels[owner][:60] + "…"
                raise ValueError(
                    f"label {label!r} gives a prompt of {sum(mask)} tokens and the text tower reads {limit}: "
                    "shorten the label or its template"
                )

    def post_process_semantic_segmentation(self, outputs, target_sizes=None, return_segmentation_scores: bool = False):
        """See the image processor's method of this name."""
        return self.image_processor.post_process_semantic_segmentation(
            outputs, target_sizes=target_sizes, return_segmentation_scores=return_segmentation_scores
        )

    def to_dict(self) -> dict:
        """The fields that are saved, and where remote code finds the classes."""
        auto_map = {name: AUTO_MAP[name] for name in ("AutoProcessor", "AutoImageProcessor")}
        return {**super().to_dict(), "auto_map": auto_map}

    def save_pretrained(self, save_directory, **kwargs):
        """As in transformers, with the code for `trust_remote_code=True` beside the configuration."""
        saved = super().save_pretrained(save_directory, **kwargs)
        copy_code(save_directory)
        return saved


__all__ = ["PatProcessor"]
