"""Checkpoints of a training run that survive a kill, a full disk and a power cut: complete, or not there."""

import json
import os
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator

PREFIX, PART_SUFFIX = "step_", ".part"
INFO_FILE = "training.json"


def save_checkpoint(accelerator: Accelerator, folder: str | Path, step: int, info: dict, keep: int = 2) -> None:
    """
    Write everything that the accelerator knows to `folder/step_NNNNNNN`; every process calls this.

    The files get that name only once all are on the disk. Of older checkpoints the newest are kept.

    Args:
        step: Number of steps done.
        info: What [`read_info`] shall find, JSON.
        keep: How many checkpoints to keep, this one included.

    Raises:
        OSError: If it can't be written. The last checkpoint before it is still there.
    """
    folder = Path(folder)
    part = folder / f"{PREFIX}{step:07d}{PART_SUFFIX}"
    if accelerator.is_main_process:
        remove_parts(folder)
    accelerator.wait_for_everyone()
    problem = None
    try:
        accelerator.save_state(str(part))
        if accelerator.is_main_process:
            (part / INFO_FILE).write_text(json.dumps({"step": step, **info}, indent=2), encoding="utf-8")
        _sync(part)
    except Exception as error:  # each of the libraries below has a type of its own for a full disk
        problem = error
    failed = accelerator.reduce(torch.tensor(int(problem is not None), device=accelerator.device), "sum")
    if failed:
        if accelerator.is_main_process:
            remove_parts(folder)
        last = newest_checkpoint(folder)
        raise OSError(
            f"the checkpoint of step {step} can't be written ({problem or 'in another process'}); "
            f"{f'the last good one is {last}' if last else 'there is none before it'}"
        )
    if accelerator.is_main_process:
        part.rename(part.with_suffix(""))
        _sync(folder)
        for old in _complete(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def newest_checkpoint(folder: str | Path) -> Path | None:
    """The newest complete checkpoint in `folder`, None if there is none."""
    return next(reversed(_complete(Path(folder))), None)


def read_info(checkpoint: Path) -> dict:
    """What [`save_checkpoint`] was given as `info`, and "step"."""
    return json.loads((checkpoint / INFO_FILE).read_text(encoding="utf-8"))


def remove_parts(folder: Path) -> None:
    """Delete what a kill left half-written."""
    for part in folder.glob(f"{PREFIX}*{PART_SUFFIX}"):
        shutil.rmtree(part, ignore_errors=True)


def _complete(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob(f"{PREFIX}*") if path.suffix != PART_SUFFIX)


def _sync(folder: Path) -> None:
    """Have the system put a folder and its files on the disk."""
    for path in (*(path for path in folder.rglob("*") if path.is_file()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
