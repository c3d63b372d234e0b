"""Train PAT on any data with masks, or its tokenizer on any photos.

CPU smoke run   python examples/train.py --config configs/nano_smoke.yaml --train ../data/mine:train
1 GPU           accelerate launch examples/train.py --config configs/vitb16_coco_stuff.yaml
8 GPUs          accelerate launch --multi_gpu --num_processes 8 examples/train.py --config ... --batch_size 4
2 nodes of 8    on each, with --machine_rank 0 and 1:
                accelerate launch --multi_gpu --num_machines 2 --num_processes 16 --machine_rank 0
                    --main_process_ip HOST --main_process_port 29500 examples/train.py --config ... --batch_size 2
2 CPU processes torchrun --standalone --nproc_per_node 2 examples/train.py --config ...
FSDP, DeepSpeed accelerate launch --config_file YOURS.yaml examples/train.py --config ...  (docs/training.md)
Own photos      ... --train ../data/mine:train --validation ../data/mine:val
Tokenizer only  ... --objective tokenizer --train '{"photos": "../photos"}'
Continue        the same command with --resume

Every value of the config file is also a flag; flags win.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from huggingface_hub import upload_folder
from huggingface_hub.errors import StrictDataclassError
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_scheduler

from transformers_pat import PatConfig, PatForSemanticSegmentation, PatProcessor
from transformers_pat.cli.arguments import parse_arguments
from transformers_pat.data.source import DataSource, read_source
from transformers_pat.evaluation.evaluator import evaluate_dataset
from transformers_pat.prompts_pat import resolve_templates
from transformers_pat.reconstruction import reconstruct
from transformers_pat.training.augmentation import TrainingView
from transformers_pat.training.batches import TrainingBatches, VocabularySampler, read_synonyms, renumber
from transformers_pat.training.checkpoints import newest_checkpoint, read_info, save_checkpoint
from transformers_pat.training.lora import ADAPTER_FOLDER, add_lora, save_with_lora
from transformers_pat.training.report import TrainingReport
from transformers_pat.visualization import overlay, reconstruction_sheet


def option(text: str, **default):
    return field(metadata={"help": text}, **default)


@dataclass
class TrainConfig:
    clip: str = option("CLIP checkpoint to build on: a folder or a Hub name.")
    output_dir: str = option("Where checkpoints, logs, samples and the final model go.")
    train: list[str] = field(
        default_factory=list,
        metadata={"help": "Data sets: FOLDER:SPLIT, or JSON with the fields of transformers_pat.sources.DataSource."},
    )
    validation: list[str] = field(
        default_factory=list, metadata={"help": "Data sets for the mean IoU during training, in the same form."}
    )
    data: str | None = option("Folder in which the data sets' folders are looked for.", default=None)
    objective: Literal["segmentation", "tokenizer"] = option("tokenizer needs no masks.", default="segmentation")
    model: str = option('JSON: fields of PatConfig, {"hidden_size": 128}.', default="{}")
    synonyms: str | None = option("JSON file: class name -> other words for it.", default=None)
    templates: str = option("Prompt templates: none, simple, vild, imagenet.", default="simple")
    strict: bool = option("Stop at a photo or mask that can't be used, instead of skipping it.", default=False)

    crop_size: int = option("Side of the square training crops, pixels.", default=224)
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
    validate_every: int = option("Steps between two validations; 0: none.", default=0)
    samples: int = option("Photos of each validation set to make pictures of.", default=2)
    tracker: str = option("Any of accelerate's trackers: tensorboard, wandb, ...", default="tensorboard")
    resume: bool = option("Go on from the newest checkpoint in output_dir, if there is one.", default=False)
    push_to_hub: str | None = option("Hub repository for the trained model.", default=None)


def main() -> None:
    args = parse_arguments(TrainConfig, __doc__)
    accelerator = make_accelerator(args)
    set_seed(args.seed)
    model, processor = make_model(args)
    batches = make_batches(args, processor, accelerator)
    vocabulary = make_vocabulary(args, model, processor, batches)
    # The tokenizer is a part of the segmenter, which learns nothing of its own without masks.
    learner = model if args.objective == "segmentation" else model.pat
    if args.lora_rank:
        add_lora(model, args.lora_rank)
    if args.gradient_checkpointing:
        learner.gradient_checkpointing_enable()
    accelerator.print(f"{learner.num_trainable_parameters / 1e6:.2f} M trained parameters")
    optimizer = make_optimizer(args, learner)
    scheduler = make_scheduler(args, optimizer)  # not prepared: accelerate would step it once per process
    average = make_average(args, learner, accelerator)
    learner, optimizer = accelerator.prepare(learner, optimizer)
    accelerator.register_for_checkpointing(scheduler, *([average] if average else []))
    first_step = restore(args, accelerator)
    loader = iter(make_loader(args, batches, first_step))
    progress = tqdm(total=args.max_steps, initial=first_step, disable=not accelerator.is_main_process)
    report = TrainingReport(accelerator, progress, args.log_every, images_per_step(args, accelerator))

    learner.train()
    with progress:
        for step in range(first_step + 1, args.max_steps + 1):
            for _ in range(args.gradient_accumulation_steps):
                batch = next(loader)
                report.skip(batch["skipped"])
                with accelerator.accumulate(learner):
                    outputs = learner(**make_inputs(batch, accelerator, model, vocabulary))
                    accelerator.backward(outputs.loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(learner.parameters(), args.max_grad_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                report.add(outputs)
            scheduler.step()
            if average:
                average.update_parameters(accelerator.unwrap_model(learner))
            report.step(step, scheduler.get_last_lr()[0])
            if args.validate_every and step % args.validate_every == 0:
                validate(
                    args,
                    accelerator,
                    average.module if average else accelerator.unwrap_model(learner),
                    processor,
                    step,
                )
            if args.save_every and step % args.save_every == 0:
                info = {"images_per_step": images_per_step(args, accelerator)}
                save_checkpoint(accelerator, checkpoint_folder(args), step, info)
            progress.update()

    report.close()
    finish(args, accelerator, learner, average, processor)
    del learner, optimizer, scheduler
    accelerator.free_memory()
    accelerator.end_training()


def make_accelerator(args: TrainConfig) -> Accelerator:
    """Accelerate's own configuration, with what the arguments say and a tracker in output_dir."""
    accelerator = Accelerator(
        # Otherwise accelerate takes the processes that torchrun starts without a GPU for one run each.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=args.tracker,
        project_dir=args.output_dir,
    )
    if accelerator.state.deepspeed_plugin:  # it can't read the batch size off a loader that it does not prepare
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = args.batch_size
    plain = {name: value for name, value in asdict(args).items() if isinstance(value, (int, float, str))}
    accelerator.init_trackers("pat", config=plain)
    return accelerator


def make_model(args: TrainConfig) -> tuple[PatForSemanticSegmentation, PatProcessor]:
    """An untrained PAT around CLIP."""
    model_fields = read_model_fields(args.model)
    try:
        processor = PatProcessor.from_clip_pretrained(args.clip)
        return PatForSemanticSegmentation.from_clip_pretrained(args.clip, **model_fields), processor
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--clip: {args.clip!r} is no folder with a CLIP, nor one on the Hub: {reason}") from None
    except StrictDataclassError as error:
        raise ValueError(f"--model: {str(error).split('ValueError: ')[-1].strip()}") from None


def read_model_fields(text: str) -> dict:
    """Fields of PatConfig, which itself takes any name."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--model {text!r} is no JSON: {error}") from None
    known = [field.name for field in fields(PatConfig)]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"--model has an unknown field {unknown[0]!r}; PatConfig has {', '.join(known)}")
    return values


def images_per_step(args: TrainConfig, accelerator: Accelerator) -> int:
    return args.batch_size * args.gradient_accumulation_steps * accelerator.num_processes


def checkpoint_folder(args: TrainConfig) -> Path:
    return Path(args.output_dir, "checkpoints")


def read_sources(args: TrainConfig, items: list[str]) -> list[DataSource]:
    """Data sets by their descriptions, plain folders looked for in --data."""
    sources = [read_source(item) for item in items]
    for source in sources:
        if source.folder and args.data:
            source.folder = str(Path(args.data, source.folder))
    return sources


def make_batches(args: TrainConfig, processor: PatProcessor, accelerator: Accelerator) -> TrainingBatches:
    """All batches of the run, this process's part of each."""
    if not args.train:
        raise ValueError("--train: name at least one data set, such as ../data/mine:train")
    sources = read_sources(args, args.train)
    opened = [(source.open(args.strict), source.weight) for source in sources]
    for source, (dataset, _) in zip(sources, opened, strict=True):
        if args.objective == "segmentation" and not dataset.names:
            raise ValueError(f"{source.name} has no masks: train with --objective tokenizer, or leave it out")
        for problem in getattr(dataset, "missing", []):
            accelerator.print(f"skipped: {problem}")
    return TrainingBatches(
        opened,
        TrainingView(args.crop_size, processor.image_processor.image_mean, processor.image_processor.image_std),
        args.batch_size,
        args.max_steps * args.gradient_accumulation_steps,
        args.seed,
        accelerator.process_index,
        accelerator.num_processes,
        args.strict,
    )


def make_loader(args: TrainConfig, batches: TrainingBatches, first_step: int) -> DataLoader:
    order = range(first_step * args.gradient_accumulation_steps, len(batches))
    return DataLoader(batches, batch_size=None, sampler=order, num_workers=args.workers)


def make_vocabulary(
    args: TrainConfig, model: PatForSemanticSegmentation, processor: PatProcessor, batches: TrainingBatches
) -> VocabularySampler | None:
    """The sampler of words with the embeddings of all of them, so that the text tower runs only here."""
    if args.objective == "tokenizer":
        return None
    templates = resolve_templates(args.templates)
    vocabulary = VocabularySampler(read_synonyms(args.synonyms), templates, args.seed)
    words = {word for dataset in batches.datasets for word in vocabulary.all_words(dataset.names)}
    for template in tqdm(templates, desc="embedding words", leave=False):
        embeds = model.get_text_embeds(sorted(words), processor, templates=[template])
        vocabulary.embeds.update(((word, template), row) for word, row in zip(sorted(words), embeds, strict=True))
    return vocabulary


def make_inputs(
    batch: dict,
    accelerator: Accelerator,
    model: PatForSemanticSegmentation,
    vocabulary: VocabularySampler | None,
) -> dict[str, torch.Tensor]:
    """A batch on its device, with words for the classes that any process has in it."""
    inputs = {name: batch[name].to(accelerator.device) for name in ("pixel_values", "noise")}
    if vocabulary is None:
        return inputs
    present = accelerator.reduce(batch["present"].to(accelerator.device), "sum").cpu()
    words, classes, template = vocabulary(batch["names"], present, batch["number"])
    labels = renumber(batch["labels"], classes, len(batch["names"]), model.config.semantic_loss_ignore_index)
    text_embeds = torch.stack([vocabulary.embeds[word, template] for word in words]).to(accelerator.device)
    return {**inputs, "labels": labels.to(accelerator.device), "text_embeds": text_embeds}


def make_optimizer(args: TrainConfig, learner: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW; vectors (norms, biases, the gate) are not decayed."""
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": args.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.learning_rate)


def make_scheduler(args: TrainConfig, optimizer: torch.optim.Optimizer):
    own = {"power": 0.9, "lr_end": 0.0} if args.schedule == "polynomial" else {}
    return get_scheduler(args.schedule, optimizer, args.warmup_steps, args.max_steps, scheduler_specific_kwargs=own)


def make_average(args: TrainConfig, learner: torch.nn.Module, accelerator: Accelerator) -> AveragedModel | None:
    if not args.ema_decay:
        return None
    return AveragedModel(learner, accelerator.device, multi_avg_fn=get_ema_multi_avg_fn(args.ema_decay))


def restore(args: TrainConfig, accelerator: Accelerator) -> int:
    """Load the newest checkpoint if asked to; returns the number of steps done."""
    newest = newest_checkpoint(checkpoint_folder(args))
    if newest is None:
        return 0
    if not args.resume:
        raise ValueError(f"{newest} is of an earlier run: add --resume to go on, or choose another --output_dir")
    info = read_info(newest)
    if info["images_per_step"] != images_per_step(args, accelerator):
        raise ValueError(
            f"{newest} was made with {info['images_per_step']} images a step, this run has "
            f"{images_per_step(args, accelerator)}: change batch_size or gradient_accumulation_steps"
        )
    accelerator.load_state(str(newest))
    return info["step"]


def validate(args: TrainConfig, accelerator: Accelerator, evaluated, processor: PatProcessor, step: int) -> None:
    """Mean IoU of every validation set, and pictures of its first photos."""
    was_training = evaluated.training
    evaluated.eval()
    for source in read_sources(args, args.validation):
        dataset = source.open()
        if accelerator.is_main_process:
            save_samples(args, evaluated, processor, source.name, dataset, step)
        if args.objective == "segmentation":
            result = evaluate_dataset(evaluated, processor, dataset, accelerator=accelerator, progress=False)
            score = result.metric.compute()["mean_iou"]
            accelerator.log({f"mean_iou/{source.name}": score}, step=step)
            accelerator.print(f"step {step}: mean IoU {score:.3f} on {source.name}")
    evaluated.train(was_training)


@torch.no_grad()
def save_samples(args: TrainConfig, evaluated, processor: PatProcessor, name: str, dataset, step: int) -> None:
    """Pictures of a validation set's first photos: what the tokens keep, and the label map over the photo."""
    folder = Path(args.output_dir, "samples", f"step_{step:07d}")
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(min(args.samples, len(dataset))):
        sample = dataset[index]
        stem = f"{name.replace(' ', '_')}_{index}"
        pat = evaluated.pat if args.objective == "segmentation" else evaluated
        original, levels = reconstruct(pat, processor, sample.image)
        reconstruction_sheet(original, [level.image for level in levels]).save(folder / f"{stem}_levels.png")
        if args.objective == "segmentation":
            inputs = processor(images=[sample.image], return_tensors="pt").to(evaluated.device)
            outputs = evaluated(**inputs, text_embeds=evaluated.get_text_embeds(dataset.prompts, processor))
            size = sample.image.size[::-1]
            (label_map,) = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])
            overlay(sample.image, label_map.cpu(), dataset.prompts).save(folder / f"{stem}_labels.png")


def finish(args: TrainConfig, accelerator: Accelerator, learner, average, processor: PatProcessor) -> None:
    """Save the trained model, averaged if asked for, and share it."""
    accelerator.wait_for_everyone()
    state_dict = average.module.state_dict() if average else accelerator.get_state_dict(learner)
    if not accelerator.is_main_process:
        return
    model = accelerator.unwrap_model(learner)
    if args.lora_rank:
        save_with_lora(model, state_dict, args.output_dir)
    else:
        model.save_pretrained(args.output_dir, state_dict=state_dict)
    processor.save_pretrained(args.output_dir)
    print(f"Saved to {args.output_dir}")
    if args.push_to_hub:
        type(model).from_pretrained(args.output_dir).push_to_hub(args.push_to_hub)
        processor.push_to_hub(args.push_to_hub)
        if args.lora_rank:
            adapter = Path(args.output_dir, ADAPTER_FOLDER)
            upload_folder(repo_id=args.push_to_hub, folder_path=adapter, path_in_repo=ADAPTER_FOLDER)
