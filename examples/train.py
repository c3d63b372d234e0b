"""Train PAT on folders of photos with masks.

CPU or one GPU:  python examples/train.py --config configs/nano_pat.yaml --data ../data --output_dir runs/nano
Several GPUs:    accelerate launch examples/train.py --config configs/nano_pat.yaml ...
Continue:        the same command with --resume

Every value of the config file is also a flag.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import HfArgumentParser, get_cosine_schedule_with_warmup

from transformers_pat import PatForSemanticSegmentation, PatProcessor
from transformers_pat.augmentation import TrainingView
from transformers_pat.evaluation import evaluate_folder
from transformers_pat.prompts_pat import PROMPT_TEMPLATES
from transformers_pat.training_data import MixedBatches, VocabularySampler, read_synonyms


@dataclass
class TrainConfig:
    clip: str = field(metadata={"help": "CLIP checkpoint to build on: a folder or a Hub name."})
    data: str = field(metadata={"help": "Folder that holds the data sets."})
    output_dir: str = field(metadata={"help": "Where checkpoints, logs and the final model go."})
    sets: str = field(default="{}", metadata={"help": 'JSON: data set folder under --data -> share, {"camvid": 1}.'})
    validation: str = field(default="{}", metadata={"help": "JSON: data set -> split to validate on."})
    model: str = field(default="{}", metadata={"help": 'JSON: fields of PatConfig, {"hidden_size": 128}.'})
    synonyms: str | None = field(default=None, metadata={"help": "JSON file: class name -> other words for it."})
    templates: str = field(default="simple", metadata={"help": "Prompt templates: none, simple, vild, imagenet."})
    crop_size: int = 224
    batch_size: int = 16
    max_steps: int = 2000
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warmup_steps: int = 100
    max_grad_norm: float = 1.0
    mixed_precision: str = field(default="no", metadata={"help": "no, bf16 or fp16."})
    workers: int = 1
    seed: int = 0
    log_every: int = 10
    save_every: int = 500
    validate_every: int = 0
    resume: bool = False


def main() -> None:
    args = parse_arguments()
    project = ProjectConfiguration(args.output_dir, automatic_checkpoint_naming=True, total_limit=2)
    accelerator = Accelerator(mixed_precision=args.mixed_precision, log_with="tensorboard", project_config=project)
    accelerator.init_trackers("pat")
    set_seed(args.seed)
    processor = PatProcessor.from_clip_pretrained(args.clip)
    model = PatForSemanticSegmentation.from_clip_pretrained(args.clip, **json.loads(args.model))
    accelerator.print(f"{model.num_trainable_parameters / 1e6:.2f} M trained parameters")
    optimizer = make_optimizer(model, args)
    # Not prepared: accelerate would step it once per process.
    scheduler = get_cosine_schedule_with_warmup(optimizer, args.warmup_steps, args.max_steps)
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(scheduler)
    first_step = restore(accelerator, args, scheduler)
    batches = iter(make_loader(processor, args, first_step, accelerator.process_index))
    progress = tqdm(range(first_step, args.max_steps), disable=not accelerator.is_main_process)

    model.train()
    for step in progress:
        batch = next(batches)
        text_embeds = accelerator.unwrap_model(model).get_text_embeds(
            batch["words"], processor, templates=[batch["template"]]
        )
        outputs = model(
            pixel_values=batch["pixel_values"].to(accelerator.device),
            labels=batch["labels"].to(accelerator.device),
            text_embeds=text_embeds,
        )
        accelerator.backward(outputs.loss)
        accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        if step % args.log_every == 0:
            report(accelerator, progress, outputs, scheduler, step)
        if args.save_every and (step + 1) % args.save_every == 0:
            accelerator.save_state()
        if args.validate_every and (step + 1) % args.validate_every == 0:
            validate(accelerator, model, processor, args, step + 1)

    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(args.output_dir)
        processor.save_pretrained(args.output_dir)
        print(f"Saved to {args.output_dir}")
    del model, optimizer, scheduler
    accelerator.free_memory()
    accelerator.end_training()


def parse_arguments() -> TrainConfig:
    """Flags over the config file over the defaults."""
    parser = HfArgumentParser(TrainConfig, description=__doc__, allow_abbrev=False)
    argv = sys.argv[1:]
    if "--config" in argv:
        position = argv.index("--config")
        path = argv[position + 1] if position + 1 < len(argv) else ""
        if not Path(path).is_file():
            parser.error(f"--config: no file {path!r}")
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        argv = [*config_to_flags(values), *argv[:position], *argv[position + 2 :]]
    return parser.parse_args_into_dataclasses(argv)[0]


def config_to_flags(values: dict) -> list[str]:
    """A config file's values as flags, so that real flags, which come later, win."""
    flags = []
    for name, value in values.items():
        flags += [f"--{name}", json.dumps(value) if isinstance(value, (dict, list)) else str(value)]
    return flags


def make_optimizer(model: PatForSemanticSegmentation, args: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; vectors (norms, biases, the gate) are not decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.learning_rate)


def make_loader(processor: PatProcessor, args: TrainConfig, first_step: int, process_index: int) -> DataLoader:
    """Whole batches, mixed over the data sets; every process draws its own."""
    view = TrainingView(args.crop_size, processor.image_processor.image_mean, processor.image_processor.image_std)
    vocabulary = VocabularySampler(read_synonyms(args.synonyms), PROMPT_TEMPLATES[args.templates])
    folders = {str(Path(args.data) / name): share for name, share in json.loads(args.sets).items()}
    batches = MixedBatches(
        folders, view, vocabulary, args.batch_size, seed=args.seed + 1000 * process_index, first_step=first_step
    )
    return DataLoader(batches, batch_size=None, num_workers=args.workers)


def restore(accelerator: Accelerator, args: TrainConfig, scheduler) -> int:
    """Load the newest checkpoint if asked to; returns the step to go on with."""
    if not args.resume:
        return 0
    checkpoints = Path(args.output_dir, "checkpoints").glob("checkpoint_*")
    newest = max((int(path.name.removeprefix("checkpoint_")) for path in checkpoints), default=None)
    if newest is None:
        raise ValueError(f"--resume: no checkpoint in {args.output_dir}")
    accelerator.load_state(str(Path(args.output_dir, "checkpoints", f"checkpoint_{newest}")))
    # accelerate would number from 0 again, and prune the newest as if it were the oldest.
    accelerator.project_configuration.iteration = newest + 1
    return scheduler.last_epoch


def report(accelerator: Accelerator, progress: tqdm, outputs, scheduler, step: int) -> None:
    """Losses, code usage and perplexity, to the progress bar and the tracker."""
    values = {name: float(outputs[name]) for name in outputs if name.endswith("loss")}
    for level, (usage, perplexity) in enumerate(zip(outputs.codebook_usage, outputs.codebook_perplexity, strict=True)):
        values[f"codebook_usage_{level}"] = float(usage)
        values[f"codebook_perplexity_{level}"] = float(perplexity)
    progress.set_postfix({name.removesuffix("_loss"): f"{value:.3g}" for name, value in values.items()})
    accelerator.log({**values, "learning_rate": scheduler.get_last_lr()[0]}, step=step)


def validate(accelerator: Accelerator, model, processor: PatProcessor, args: TrainConfig, step: int) -> None:
    """Mean IoU on every validation set, by the main process."""
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        plain = accelerator.unwrap_model(model).eval()
        scores = {}
        for name, split in json.loads(args.validation).items():
            metric, _ = evaluate_folder(plain, processor, Path(args.data) / name, split, progress=False)
            scores[f"mean_iou/{name}"] = metric.compute()["mean_iou"]
        accelerator.log(scores, step=step)
        tqdm.write(f"step {step}: " + ", ".join(f"{name} {score:.3f}" for name, score in scores.items()))
    model.train()
    accelerator.wait_for_everyone()


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {str(error).splitlines()[0]}")
