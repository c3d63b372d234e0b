"""The training loop: from a [`TrainConfig`] to a trained checkpoint in its `output_dir`."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from huggingface_hub import upload_folder
from huggingface_hub.errors import StrictDataclassError
from rich.console import Console
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, get_scheduler

from ..configuration_pat import PatConfig
from ..data.base import SegmentationDataset
from ..loading import load_checkpoint as load_model
from ..modeling_pat import PatForSemanticSegmentation
from ..processing_pat import PatProcessor
from ..prompts_pat import LEARNED, resolve_templates
from .augmentation import TrainingView
from .batches import TrainingBatches
from .checkpoints import load_checkpoint, newest_checkpoint, only_run_in, read_info, save_checkpoint
from .config import FIXED, TrainConfig
from .lora import ADAPTER_FOLDER, add_lora, save_with_lora
from .report import TrainingReport, open_validation_sets, validate, validation_table
from .vocabulary import VocabularySampler, has_background, list_words, read_synonyms, renumber


def train(config: TrainConfig) -> None:
    """
    Train, and save checkpoints, logs, pictures and the trained model to `config.output_dir`.

    Every process of a distributed run calls this. SIGTERM and Ctrl-C finish the step, save a checkpoint and end the
    program; Ctrl-C a second time, or before the first step, ends it at once.

    Raises:
        ValueError: If an option or a data set is not usable, or another run is writing to the folder.
        OSError: If something can't be read or written.
    """
    accelerator = make_accelerator(config)
    try:
        with only_run_in(accelerator, config.output_dir):
            stop_signal = run(config, accelerator)
    except KeyboardInterrupt:
        sys.exit(f"interrupted: {how_to_go_on(config)}" if accelerator.is_main_process else 1)
    except (RuntimeError, ConnectionError, EOFError) as error:
        reason = find_lost_process(error, accelerator)
        if reason is None:
            raise
        sys.exit(f"error: {reason}: {how_to_go_on(config)}")
    accelerator.free_memory()
    accelerator.end_training()
    if stop_signal:
        sys.exit(128 + stop_signal)


def how_to_go_on(config: TrainConfig) -> str:
    """What the same command would do with --resume."""
    last = newest_checkpoint(config.checkpoint_dir)
    where = f"continues from {last}" if last else "starts anew: there is no checkpoint yet"
    return f"the same command with --resume {where}"


def find_lost_process(error: Exception, accelerator: Accelerator) -> str | None:
    """What happened if an error means that another process of the run is gone, None if it means something else."""
    # The loader's own error, or that of the pipe to it, whichever is seen first.
    if isinstance(error, (ConnectionError, EOFError)) or str(error).startswith("DataLoader worker"):
        return "a process that loads data was killed, perhaps for want of memory"
    lost = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")
    if accelerator.num_processes > 1 and any(words in str(error) for words in lost):
        return "another process of this run has ended"
    return None


def run(config: TrainConfig, accelerator: Accelerator) -> int:
    """Set everything up, train step by step, and save the model; returns the signal that came before, 0 if none."""
    checkpoint = find_checkpoint(config, accelerator)
    set_seed(config.seed)
    model, processor = make_model(config)
    batches = make_batches(config, processor, accelerator)
    validation_sets = open_validation_sets(config)
    model.to(accelerator.device)
    vocabulary = make_vocabulary(config, model, processor, batches)
    if config.fixed_vocabulary and vocabulary:
        model.set_vocabulary(list_words(batches.datasets), processor)
    # Without masks only the tokenizer, a part of the segmentation model, is trained.
    learner = model if config.objective == "segmentation" else model.pat
    if config.lora_rank:
        add_lora(model, config.lora_rank)
    if config.gradient_checkpointing:
        learner.gradient_checkpointing_enable()
    accelerator.print(f"{learner.num_trainable_parameters / 1e6:.2f} M trained parameters")
    optimizer = make_optimizer(config, learner)
    scheduler = make_scheduler(config, optimizer)  # not prepared: accelerate would step it once per process
    average = make_average(config, learner, accelerator)
    learner, optimizer = accelerator.prepare(learner, optimizer)
    accelerator.register_for_checkpointing(scheduler, *([average] if average else []))
    first_step = load_checkpoint(accelerator, checkpoint) if checkpoint else 0
    start_trackers(config, accelerator)
    loader = iter(make_loader(config, batches, first_step))
    progress = tqdm(total=config.max_steps, initial=first_step, disable=not accelerator.is_main_process)
    report = TrainingReport(accelerator, progress, config.log_every, images_per_step(config, accelerator))

    validations = {}
    if config.validate_at_start and first_step == 0:
        start = accelerator.unwrap_model(learner)
        validations[0] = validate(config, accelerator, start, processor, validation_sets, 0)
    learner.train()
    with progress, signals_set_trigger(accelerator) as received:
        for step in range(first_step + 1, config.max_steps + 1):
            for _ in range(config.gradient_accumulation_steps):
                batch = next(loader)
                report.skip(batch["skipped"])
                with accelerator.accumulate(learner):
                    outputs = learner(**make_inputs(batch, accelerator, model, vocabulary))
                    accelerator.backward(outputs.loss)
                    if accelerator.sync_gradients:
                        accelerator.clip_grad_norm_(learner.parameters(), config.max_grad_norm)
                    optimizer.step()
                    optimizer.zero_grad()
                report.add(outputs)
            scheduler.step()
            if average:
                average.update_parameters(accelerator.unwrap_model(learner))
            report.step(step, scheduler.get_last_lr()[0])
            if is_due(step, config.validate_every) or step == config.max_steps:
                evaluated = average.module if average else accelerator.unwrap_model(learner)
                validations[step] = validate(config, accelerator, evaluated, processor, validation_sets, step)
            stopped = accelerator.check_trigger()
            if stopped or is_due(step, config.save_every):
                save_checkpoint(accelerator, config.checkpoint_dir, step, checkpoint_info(config, accelerator))
            if stopped:
                accelerator.print(f"stopped: the same command with --resume continues from step {step}")
                return received[0] if received else signal.SIGTERM  # another process received it
    report.close()
    finish(config, accelerator, learner, average, processor)
    if accelerator.is_main_process:
        show_results(config, validations, batches.datasets)
    return 0


@contextmanager
def signals_set_trigger(accelerator: Accelerator) -> Iterator[list[int]]:
    """
    On SIGTERM and the first Ctrl-C, set the accelerator's trigger instead of ending the program; yields the signals.

    An exception at any place, as Ctrl-C raises by default, can leave a lock of another library taken for ever.
    """
    received: list[int] = []

    def stop(number: int, _) -> None:
        received.append(number)
        accelerator.set_trigger()
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends the process, cleanly or not

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def is_due(step: int, every: int) -> bool:
    """Whether `step` is one of every `every`; 0 means never."""
    return every > 0 and step % every == 0


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Make an accelerator from accelerate's own configuration and the options."""
    accelerator = Accelerator(
        # Otherwise accelerate takes the processes that torchrun starts without a GPU for one run each.
        cpu=not torch.accelerator.is_available(),
        mixed_precision=config.mixed_precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=config.tracker,
        project_dir=config.output_dir,
    )
    if accelerator.state.deepspeed_plugin:  # it can't read the batch size off a loader that it does not prepare
        accelerator.state.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = config.batch_size
    return accelerator


def start_trackers(config: TrainConfig, accelerator: Accelerator) -> None:
    """Start the trackers, with the options as the run's hyperparameters."""
    plain = {name: value for name, value in asdict(config).items() if isinstance(value, (int, float, str))}
    accelerator.init_trackers("pat", config=plain)


def find_checkpoint(config: TrainConfig, accelerator: Accelerator) -> Path | None:
    """
    Find the checkpoint to resume from, None to start anew.

    Raises:
        ValueError: If there is one and `resume` is not set, it is damaged, or it was made with other options.
    """
    newest = newest_checkpoint(config.checkpoint_dir)
    if newest is None:
        return None
    if not config.resume:
        raise ValueError(f"{newest} is of an earlier run: add --resume to continue it, or choose another --output_dir")
    now, then = checkpoint_info(config, accelerator), read_info(newest)
    if then["images_per_step"] != now["images_per_step"]:
        raise ValueError(
            f"{newest} was made with {then['images_per_step']} images a step, this run has "
            f"{now['images_per_step']}: change batch_size or gradient_accumulation_steps"
        )
    for name, value in then.get("options", {}).items():
        if now["options"].get(name) != value:
            raise ValueError(
                f"{newest} was made with {name} {value}, this run has {now['options'].get(name)}: "
                "use the same, or choose another --output_dir"
            )
    return newest


def checkpoint_info(config: TrainConfig, accelerator: Accelerator) -> dict:
    """What must be the same when a run is resumed."""
    options = {name: getattr(config, name) for name in FIXED}
    return {"images_per_step": images_per_step(config, accelerator), "options": options}


def make_model(config: TrainConfig) -> tuple[PatForSemanticSegmentation, PatProcessor]:
    """Load the PAT of `init`, or make an untrained one around the CLIP of `clip`; both with the fields of `model`."""
    model_fields = read_model_fields(config.model)
    if config.init:
        return load_model(PatForSemanticSegmentation, config.init, **model_fields)
    assert config.clip is not None  # checked by TrainConfig
    check_clip(config.clip)
    try:
        processor = PatProcessor.from_clip_pretrained(config.clip)
        return PatForSemanticSegmentation.from_clip_pretrained(config.clip, **model_fields), processor
    except OSError as error:
        raise ValueError(f"--clip: {config.clip!r} can't be loaded: {str(error).splitlines()[0]}") from None
    except StrictDataclassError as error:
        raise ValueError(f"--model: {str(error).split('ValueError: ')[-1].strip()}") from None


def check_clip(name: str) -> None:
    """Raise `ValueError` unless there is a CLIP of this name: one request, where loading makes and retries many."""
    if "/" not in name and not Path(name).is_dir():
        raise ValueError(f"--clip: no folder {name!r}, and no Hub name such as openai/clip-vit-base-patch16")
    try:
        model_type = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
    except OSError as error:
        raise ValueError(f"--clip: {name!r} can't be loaded: {str(error).splitlines()[0]}") from None
    if model_type == "pat":
        raise ValueError(f"--clip: {name!r} is a PAT checkpoint: to train it further, use --init {name}")
    if model_type != "clip":
        raise ValueError(f"--clip: {name!r} is no CLIP (its model type is {model_type or 'unknown'})")


def read_model_fields(text: str) -> dict:
    """Read the fields of PatConfig, which itself takes any name."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"--model {text!r} is no JSON: {error}") from None
    known = [field.name for field in fields(PatConfig)]
    if unknown := sorted(set(values) - set(known)):
        raise ValueError(f"--model has an unknown field {unknown[0]!r}; PatConfig has {', '.join(known)}")
    return values


def images_per_step(config: TrainConfig, accelerator: Accelerator) -> int:
    """Images of one optimizer step, of all processes together."""
    return config.batch_size * config.gradient_accumulation_steps * accelerator.num_processes


def make_batches(config: TrainConfig, processor: PatProcessor, accelerator: Accelerator) -> TrainingBatches:
    """Make all batches of the run, of each this process's part."""
    sources = config.sources(config.train)
    opened = [(source.open(config.strict), source.weight) for source in sources]
    for source, (dataset, _) in zip(sources, opened, strict=True):
        if config.objective == "segmentation" and not dataset.names:
            raise ValueError(f"{source.name} has no masks: train with --objective tokenizer, or leave it out")
        for problem in getattr(dataset, "missing", []):
            accelerator.print(f"skipped: {problem}")
    image_processor = processor.image_processor
    return TrainingBatches(
        opened,
        TrainingView(
            config.crop_size,
            image_processor.image_mean,
            image_processor.image_std,
            scale=(config.min_crop_scale, config.max_crop_scale),
        ),
        config.batch_size,
        config.max_steps * config.gradient_accumulation_steps,
        config.seed,
        accelerator.process_index,
        accelerator.num_processes,
        config.strict,
    )


def make_loader(config: TrainConfig, batches: TrainingBatches, first_step: int) -> DataLoader:
    """Load the batches of the steps after `first_step`."""
    order = range(first_step * config.gradient_accumulation_steps, len(batches))
    return DataLoader(
        batches, batch_size=None, sampler=order, num_workers=config.workers, worker_init_fn=ignore_signals
    )


def ignore_signals(_: int) -> None:
    """Leave signals that a whole process group receives to the training process, which ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def make_vocabulary(
    config: TrainConfig, model: PatForSemanticSegmentation, processor: PatProcessor, batches: TrainingBatches
) -> VocabularySampler | None:
    """Make the sampler of words with all their embeddings, so that the text tower runs only here."""
    if config.objective == "tokenizer":
        return None
    synonyms, templates = read_synonyms(config.synonyms), resolve_templates(config.templates)
    # More than are refined would be rejected by similarity alone, which is not trained.
    most = model.config.max_refined_labels - 1  # and the background
    vocabulary = VocabularySampler(synonyms, templates, config.seed, max_words=most)
    vocabulary.embed([name for dataset in batches.datasets for name in dataset.names], model, processor)
    return vocabulary


def make_inputs(
    batch: dict, accelerator: Accelerator, model: PatForSemanticSegmentation, vocabulary: VocabularySampler | None
) -> dict[str, torch.Tensor]:
    """Put a batch on its device, with words for the classes that occur in it in any process."""
    inputs = {name: batch[name].to(accelerator.device) for name in ("pixel_values", "noise")}
    if vocabulary is None:
        return inputs
    present = accelerator.reduce(batch["present"].to(accelerator.device), "sum").cpu()
    names, unknown = batch["names"], model.config.semantic_loss_ignore_index
    words = vocabulary(names, present, batch["number"])
    labels = renumber(batch["labels"], words, len(names), batch["ignore_index"], unknown)
    text_embeds = model.add_background(vocabulary.embeds(words.words, words.template))
    return {**inputs, "labels": labels.to(accelerator.device), "text_embeds": text_embeds}


def make_optimizer(config: TrainConfig, learner: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW; vectors (norms, biases, the gate) are not decayed."""
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def make_scheduler(config: TrainConfig, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """Warm-up, then cosine or polynomial decay to 0."""
    own = {"power": 0.9, "lr_end": 0.0} if config.schedule == "polynomial" else {}
    steps = (config.warmup_steps, config.max_steps)
    return get_scheduler(config.schedule, optimizer, *steps, scheduler_specific_kwargs=own)


def make_average(config: TrainConfig, learner: torch.nn.Module, accelerator: Accelerator) -> AveragedModel | None:
    """Exponential moving average of the weights, None if `ema_decay` is 0."""
    if not config.ema_decay:
        return None
    return AveragedModel(learner, accelerator.device, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))


def finish(config: TrainConfig, accelerator: Accelerator, learner, average, processor: PatProcessor) -> None:
    """Save the trained model, averaged if asked for, and share it."""
    accelerator.wait_for_everyone()
    state_dict = average.module.state_dict() if average else accelerator.get_state_dict(learner)
    if not accelerator.is_main_process:
        return
    model = accelerator.unwrap_model(learner)
    if config.lora_rank:
        save_with_lora(model, state_dict, config.output_dir)
    else:
        model.save_pretrained(config.output_dir, state_dict=state_dict)
    processor.save_pretrained(config.output_dir)
    print(f"Saved to {config.output_dir}")
    if config.push_to_hub:
        type(model).from_pretrained(config.output_dir).push_to_hub(config.push_to_hub)
        processor.push_to_hub(config.push_to_hub)
        if config.lora_rank:
            adapter = Path(config.output_dir, ADAPTER_FOLDER)
            upload_folder(repo_id=config.push_to_hub, folder_path=adapter, path_in_repo=ADAPTER_FOLDER)


def show_results(
    config: TrainConfig, validations: dict[int, dict[str, dict[str, float]]], datasets: list[SegmentationDataset]
) -> None:
    """Print the IoU of each class before and after, where the pictures are, and the command that uses the model."""
    for name in validations[max(validations)] if validations else ():
        Console().print(validation_table(name, validations))
        first, last = (validations[step][name]["mean"] for step in (min(validations), max(validations)))
        if last < first:
            print(f"No gain on {name}: try a lower --learning_rate, fewer --max_steps, or more photos.")
    if validations and config.samples:
        print(f"Pictures: {Path(config.output_dir, 'samples')}")
    if config.fixed_vocabulary:
        background = f" --background {LEARNED}" if any(map(has_background, datasets)) else ""
        print(f"To use it: transformers-pat segment PHOTO --model {config.output_dir}{background}")
