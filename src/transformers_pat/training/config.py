"""Every option of a training run."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..data.source import DataSource, read_source


def option(text: str, **default: Any) -> Any:
    """A field of a dataclass with a help text."""
    return field(metadata={"help": text}, **default)


# A checkpoint holds the state of a run with these values; a resumed run must have the same.
FIXED = (
    *("train", "objective", "model", "lora_rank", "ema_decay", "gradient_accumulation_steps", "crop_size"),
    *("min_crop_scale", "max_crop_scale"),
    *("learning_rate", "schedule", "warmup_steps", "weight_decay", "templates", "seed"),
)


@dataclass
class TrainConfig:
    """
    Options of `transformers-pat train`, each a flag and a value of the config file.

    Raises:
        ValueError: If a number is out of its range, or `clip`, `init` and `model` do not fit together.
    """

    output_dir: str = option("Where checkpoints, logs, samples and the final model go.")
    clip: str | None = option("CLIP to build a new PAT on: a folder or a Hub name.", default=None)
    init: str | None = option("PAT checkpoint to start from: a folder, a Hub name or pat-nano.", default=None)
    train: list[str] = field(
        default_factory=list,
        metadata={"help": "Data sets: FOLDER:SPLIT, or JSON with the fields of transformers_pat.data.DataSource."},
    )
    validation: list[str] = field(
        default_factory=list,
        metadata={"help": "Data sets to validate on, in the same form: mean IoU and pictures."},
    )
    data: str | None = option(
        "With --train: folder in which the data sets' folders are looked for. Without: your own photos and masks.",
        default=None,
    )
    objective: Literal["segmentation", "tokenizer"] = option("tokenizer needs no masks.", default="segmentation")
    model: str = option(
        'Fields of PatConfig as JSON, {"hidden_size": 128}; with --init those that change no shape.', default="{}"
    )
    synonyms: str | None = option("JSON file: class name -> other words for it.", default=None)
    templates: str = option("Prompt templates: none, simple, vild, imagenet.", default="simple")
    strict: bool = option("Stop at a photo or mask that can't be used, instead of skipping it.", default=False)

    crop_size: int = option("Side of the square training crops, pixels.", default=224)
    min_crop_scale: float = option("Smallest crop, as a share of the photo's short side.", default=0.5)
    max_crop_scale: float = option("Largest crop; above 1 up to the whole photo, squeezed to a square.", default=1.0)
    batch_size: int = option("Images per process and forward.", default=16)
    gradient_accumulation_steps: int = option("Forwards per optimizer step, each from one data set.", default=1)
    max_steps: int = option("Optimizer steps.", default=2000)
    learning_rate: float = option("Highest learning rate.", default=1e-3)
    schedule: Literal["cosine", "polynomial"] = option("Decay after warm-up; polynomial: power 0.9.", default="cosine")
    warmup_steps: int = option("Steps over which the learning rate rises.", default=100)
    weight_decay: float = option("Of matrices; vectors are not decayed.", default=0.05)
    max_grad_norm: float = option("Gradients are clipped to this norm.", default=1.0)
    ema_decay: float = option("Average the trained weights with this decay; 0: don't.", default=0.0)
    lora_rank: int = option("Rank of LoRA on CLIP's vision attention (peft); 0: none.", default=0)
    mixed_precision: Literal["no", "bf16", "fp16"] = option("Precision of the forward.", default="no")
    gradient_checkpointing: bool = option("Trade time for memory.", default=False)
    workers: int = option("Processes that load data, per training process.", default=1)
    seed: int = option("Seed of everything.", default=0)

    log_every: int = option("Steps between two lines of the log.", default=10)
    save_every: int = option("Steps between two checkpoints; 0: none.", default=500)
    validate_every: int = option("Steps between two validations; 0: only after the last step.", default=0)
    validate_at_start: bool = option("Validate before the first step, too, to see the gain.", default=False)
    samples: int = option("Photos of each validation set to make pictures of.", default=2)
    tracker: str = option("Any of accelerate's trackers: tensorboard, wandb, ...", default="tensorboard")
    resume: bool = option("Continue from the newest checkpoint in output_dir, if there is one.", default=False)
    fixed_vocabulary: bool = option("Save the class names as the model's vocabulary.", default=False)
    push_to_hub: str | None = option("Hub repository for the trained model.", default=None)

    def __post_init__(self) -> None:
        for name in ("crop_size", "batch_size", "gradient_accumulation_steps", "max_steps", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.min_crop_scale <= self.max_crop_scale:
            raise ValueError(
                f"--min_crop_scale must be above 0 and at most --max_crop_scale, got {self.min_crop_scale} and "
                f"{self.max_crop_scale}"
            )
        if bool(self.clip) == bool(self.init):
            raise ValueError("give either --clip, to train a new PAT on a CLIP, or --init, to train a PAT further")
        if not self.train:
            raise ValueError("--train: name at least one data set, such as ../data/mine:train; or give --data FOLDER")

    @property
    def checkpoint_dir(self) -> Path:
        """Folder of the checkpoints."""
        return Path(self.output_dir, "checkpoints")

    def sources(self, items: list[str]) -> list[DataSource]:
        """Read descriptions of data sets; plain folders are looked for in `data`."""
        sources = [read_source(item) for item in items]
        for source in sources:
            if source.folder and self.data:
                source.folder = str(Path(self.data, source.folder))
        return sources
