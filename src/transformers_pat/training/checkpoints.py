"""Checkpoints of a training run that survive a kill, a full disk and a power cut; one run per folder."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils.other import load
from filelock import FileLock, Timeout
from safetensors import safe_open

NAME = re.compile(r"step_(\d+)")
PART_SUFFIX = ".part"
INFO_FILE, LOCK_FILE = "training.json", ".lock"


@contextmanager
def only_run_in(accelerator: Accelerator, folder: str | Path) -> Iterator[None]:
    """
    Keep other runs out of `folder`; every process enters this.

    Raises:
        ValueError: If another run holds it.
        OSError: If it can't be made.
    """
    # The loader's processes hold the lock of a run that was killed for up to 5 seconds.
    lock, taken = FileLock(Path(folder, LOCK_FILE), timeout=8), False
    if accelerator.is_main_process:
        Path(folder).mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            taken = True
    if _in_any_process(accelerator, taken):
        raise ValueError(f"another run is writing to {folder}: wait until it ends, or choose another --output_dir")
    try:
        yield
    finally:
        lock.release()


def save_checkpoint(accelerator: Accelerator, folder: str | Path, step: int, info: dict, keep: int = 2) -> None:
    """
    Write the accelerator's whole state to `folder/step_NNNNNNN`; every process calls this.

    The checkpoint gets that name only once all its files are on the disk. Then older ones are deleted.

    Args:
        accelerator: What was prepared by it or registered with it is saved.
        folder: Folder of the checkpoints.
        step: Number of steps done.
        info: JSON-serialisable metadata, returned by [`read_info`].
        keep: Number of checkpoints to keep, this one included.

    Raises:
        OSError: If it can't be written. The checkpoint before it is still there.
    """
    folder = Path(folder)
    part = folder / f"step_{step:07d}{PART_SUFFIX}"
    if accelerator.is_main_process:
        remove_parts(folder)
    accelerator.wait_for_everyone()

    def write() -> None:
        accelerator.save_state(str(part))
        if accelerator.is_main_process:
            (part / INFO_FILE).write_text(json.dumps({"step": step, **info}, indent=2), encoding="utf-8")

    # In two stages, because while one process writes, another would find its temporary files.
    problem = _attempt(accelerator, write) or _attempt(accelerator, lambda: _sync(part))
    if problem:
        if accelerator.is_main_process:
            remove_parts(folder)
        last = newest_checkpoint(folder)
        raise OSError(
            f"the checkpoint of step {step} can't be written ({problem}); "
            f"{f'the last good one is {last}' if last else 'there is none before it'}"
        )
    if accelerator.is_main_process:
        part.rename(part.with_suffix(""))
        _sync(folder)
        for old in _complete(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> int:
    """
    Restore what [`save_checkpoint`] saved, and return its `step`; every process calls this.

    Raises:
        ValueError: If a file is damaged. The message names it and the checkpoint before.
    """
    step = read_info(checkpoint)["step"]
    # Also because accelerate reads some of these files with pickle: a file that passes holds no code.
    for path in sorted(checkpoint.iterdir()):
        if problem := _find_problem(path):
            raise _damaged(checkpoint, path, problem)
    try:
        accelerator.load_state(str(checkpoint))
        return step
    except Exception as error:  # each of the libraries below has its own type for a damaged file
        raise _damaged(checkpoint, checkpoint, error) from None


def newest_checkpoint(folder: str | Path) -> Path | None:
    """Return the newest complete checkpoint in `folder`, None if there is none."""
    return next(reversed(_complete(Path(folder))), None)


def read_info(checkpoint: Path) -> dict:
    """Return the `info` of [`save_checkpoint`], and "step"; `ValueError` if the file is damaged."""
    path = checkpoint / INFO_FILE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(checkpoint, path, error) from None


def remove_parts(folder: Path) -> None:
    """Delete what a killed run left half-written."""
    for part in folder.glob(f"step_*{PART_SUFFIX}"):
        shutil.rmtree(part, ignore_errors=True)


def _complete(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    found = [(int(name[1]), path) for path in folder.glob("step_*") if (name := NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _in_any_process(accelerator: Accelerator, flag: bool) -> bool:
    return bool(accelerator.reduce(torch.tensor(int(flag), device=accelerator.device), "sum"))


def _attempt(accelerator: Accelerator, work: Callable[[], None]) -> str | None:
    """Call `work` in every process and wait for all; returns what went wrong in any of them."""
    problem = None
    try:
        work()
    except Exception as error:  # each of the libraries below has its own type for a full disk
        problem = str(error)
    return problem or "in another process" if _in_any_process(accelerator, problem is not None) else None


def _damaged(checkpoint: Path, path: Path, error: Exception) -> ValueError:
    before = next((old for old in reversed(_complete(checkpoint.parent)) if old < checkpoint), None)
    reason = (str(error) or type(error).__name__).splitlines()[0]
    back = f"to continue from {before.name}" if before else "to start anew"
    return ValueError(f"{path} is damaged ({reason}): delete {checkpoint} {back}")


def _find_problem(path: Path) -> Exception | None:
    """Why a file of a checkpoint can't be read, None if it can. Nothing in it is executed."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                return None
        if path.suffix in (".bin", ".pkl", ".pt"):
            load(path, map_location="cpu")
    except Exception as error:
        return error
    return None


def _sync(folder: Path) -> None:
    """Have the system put a folder and its files on the disk."""
    for path in (*(path for path in folder.rglob("*") if path.is_file()), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
