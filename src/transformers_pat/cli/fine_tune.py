"""`transformers-pat train --data FOLDER`: a look at the folder, then options that suit a few dozen photos."""

import argparse
import json
import os
from pathlib import Path

from rich.console import Console

from ..data.inspection import FolderReport, inspect_folder
from .check_data import show_progress, show_report

VALIDATION_SPLITS = ("val", "valid", "validation", "test")
# Our choice, for pat-nano: about seven minutes on one core. Flags win.
DEFAULTS = {
    "crop_size": 192,
    "min_crop_scale": 0.8,
    "max_crop_scale": 1.4,
    "batch_size": 8,
    "max_steps": 300,
    "learning_rate": 3e-4,
    "warmup_steps": 30,
    "ema_decay": 0.98,
    "save_every": 100,
    "samples": 4,
}


def fine_tuning_flags(argv: list[str]) -> list[str]:
    """
    The flags that `--data FOLDER` without `--train` and `--config` stands for; others are returned unchanged.

    Prints what the folder holds. Raises `ValueError` if it can't be trained on.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("data", "train", "config", "clip", "init", "output_dir"):
        parser.add_argument(f"--{name}")
    given, others = parser.parse_known_args(argv)
    if not given.data or given.train or given.config or "--help" in argv or "-h" in argv:
        return argv
    console = Console(quiet=os.environ.get("RANK", "0") != "0")  # one of several processes prints
    report = inspect_folder(given.data, track=show_progress(console))
    show_report(console, report)
    check_report(report, given.data)
    folder = {"folder": given.data, "ignored_classes": []}
    flags = ["--train", json.dumps(folder | {"split": "train"})]
    if held_out := [split for split in VALIDATION_SPLITS if report.splits.get(split)][:1]:
        flags += ["--validation", json.dumps(folder | {"split": held_out[0]}), "--validate_at_start"]
    flags += ["--clip", given.clip] if given.clip else ["--init", given.init or "pat-nano"]
    flags += ["--output_dir", given.output_dir or str(Path("runs", Path(given.data).resolve().name))]
    flags += ["--fixed_vocabulary"]
    return [*flags, *(f"--{name}={value}" for name, value in DEFAULTS.items()), *others]


def check_report(report: FolderReport, folder: str) -> None:
    """Raise `ValueError` if there is nothing to learn from."""
    if not report.splits.get("train"):
        raise ValueError(f"{folder} has no split 'train' (found: {', '.join(report.splits)})")
    if not any(count.pixels for count in report.classes):
        raise ValueError(f"no pixel of {folder} is labelled: see the table above")
