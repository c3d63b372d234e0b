"""Trains every row of the ablation, equally and with several seeds, and evaluates it. Run it again to go on.

    python recipes/pat_nano/export.py --output WORK/clip     # the CLIP of pat-nano, if the recipe left none
    python recipes/pat_nano/ablation.py --data DATA --work WORK

Figures go to docs/results/ablation.json as soon as they are there, from which
`python -m recipes.pat_nano.evidence.trainings` makes docs/ablation.md; a row that the file has is not trained again.
Trained models stay in WORK/ablation.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import yaml
from splits import MEASURED
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from transformers_pat.data.base import read_classes

# What makes so many trainings affordable.
SHORTER = {"crop_size": 160, "warmup_steps": 50, "ema_decay": 0.0, "validation": []}
REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs" / "nano_pat_ablation.yaml"
FIGURES = REPOSITORY / "docs" / "results" / "ablation.json"
SCORES = ("mean_iou", "boundary_mean_iou")
# What differs from the PAT of configs/nano_pat_ablation.yaml.
VARIANTS: dict[str, dict] = {
    "pat": {},
    "baseline": {"token_guidance": False},
    "no_residual": {"embedding_residual_bound": 0.0},
    "dense_guidance": {"guidance_source": "dense", "embedding_residual_bound": 0.0},
    "dense_residual": {"guidance_source": "dense"},
    "continuous": {"quantize": False},
    "one_level": {"feature_layers": [[2, 4, 6, 8]], "level_strides": [0.5], "codebook_sizes": [1024]},
    "loose_coupling": {"segmentation_updates_codes": False},
    "no_pixel_branch": {"reconstruction_loss_weight": 0.0},
    "no_feature_head": {"feature_loss_weight": 0.0},
}
# Variants that are also trained without these classes.
HELD_OUT_VARIANTS = ("pat", "baseline", "no_residual", "dense_residual")
# Variants that are also trained for long, with a validation now and then: does a gain last?
LONG_VARIANTS = ("pat", "baseline")
LONG = {"max_steps": 1500, "validate_every": 250, "samples": 0}
HELD_OUT = ("cow", "horse", "sky", "water", "flower", "boat", "window", "fence", "bus")


class Job(NamedTuple):
    """One training: a variant, a seed, and a kind: "short", "held_out" (without some classes) or "long"."""

    variant: str
    seed: int
    kind: str


class Figures:
    """The figures of all rows, {row: {seed: {"pixels": {set: scores}, ...}}}, in one JSON file."""

    def __init__(self, path: Path):
        self.path, self._lock = path, Lock()
        self.rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def has(self, row: str, seed: int, source: str) -> bool:
        return source in self.rows.get(row, {}).get(str(seed), {})

    def add(self, row: str, seed: int, source: str, figures: dict) -> None:
        with self._lock:
            self.rows.setdefault(row, {}).setdefault(str(seed), {})[source] = figures
            partial = self.path.with_suffix(".part")
            partial.write_text(json.dumps(self.rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            os.replace(partial, self.path)


def hold_out(folder: str, data: Path) -> list[str]:
    """The held-out classes that a data set has."""
    listed = read_classes(data / folder / "classes.txt").values()
    return [name for name in HELD_OUT if name in listed]


def write_seen(args: argparse.Namespace, path: Path) -> None:
    """A class list of all that is trained without held-out classes, for the figures of seen and unseen ones."""
    folders = [source["folder"] for source in yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["train"]]
    names = {name for folder in folders for name in read_classes(args.data / folder / "classes.txt").values()}
    lines = [f"{index}: {name}" for index, name in enumerate(sorted(names - set(HELD_OUT)))]
    path.write_text("\n".join(lines), encoding="utf-8")


def train(row: str, job: Job, args: argparse.Namespace) -> Path:
    """One training by examples/train.py, gone on with if it was cut off; returns its folder."""
    output = args.work / "ablation" / f"{row}_{job.seed}"
    if not (output / "config.json").is_file():
        config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        config["model"] |= VARIANTS[job.variant]
        sets = [f"{name}:{split}" for name, split in MEASURED.items()]
        length = LONG | {"validation": sets} if job.kind == "long" else {"max_steps": args.steps}
        config |= SHORTER | length | {"seed": job.seed}
        if job.kind == "held_out":
            for source in config["train"]:
                source["ignored_classes"] = hold_out(source["folder"], args.data)
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        where = ["--clip", args.work / "clip", "--data", args.data, "--output_dir", output]
        run("examples/train.py", "--config", output / "config.yaml", *where, "--resume", log=output / "train.log")
        shutil.rmtree(output / "checkpoints", ignore_errors=True)
    return output


def evaluate(model: Path, args: argparse.Namespace, source: str, *flags: str | Path) -> dict:
    """Scores of all measured sets by examples/evaluate.py, {set: {score: value}}."""
    output = model / f"evaluation_{source}"
    sets = [args.data / f"{name}:{split}" for name, split in MEASURED.items()]
    where = ["--model", model, "--shortest_edge", "256", "--data", *sets, "--output", output]
    run("examples/evaluate.py", *where, *flags, log=model / "evaluate.log")
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))["data"]
    figures = {}
    for name, result in results.items():
        figures[name] = {score: result[score] for score in SCORES}
        for group in ("seen", "unseen"):
            if group in result:
                figures[name][group] = {score: result[group][score] for score in SCORES}
    return figures


def read_curve(model: Path) -> dict[str, dict[str, float]]:
    """{set: {step: mIoU}} of a training's validations."""
    events = EventAccumulator(str(model / "pat")).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("mean_iou/")]
    return {tag.removeprefix("mean_iou/"): {str(e.step): e.value for e in events.Scalars(tag)} for tag in tags}


def run(*command: str | Path, log: Path) -> None:
    with log.open("a", encoding="utf-8") as file:
        subprocess.run([sys.executable, *map(str, command)], check=True, cwd=REPOSITORY, stdout=file, stderr=file)


def make_row(job: Job, figures: Figures, args: argparse.Namespace) -> None:
    """Train and evaluate one variant with one seed, as far as that is not done."""
    row = job.variant if job.kind == "short" else f"{job.variant}_{job.kind}"
    flags: dict[str, list[str | Path]] = {"pixels": ["--seen", args.seen] if job.kind == "held_out" else []}
    if job.variant == "pat" and job.kind == "short":
        flags["codes"] = ["--codes_only"]
        if job.seed == 0:
            flags["training_free"] = ["--floor"]
    for source in flags:
        if not figures.has(row, job.seed, source):
            model = train(row, job, args)
            figures.add(row, job.seed, source, evaluate(model, args, source, *flags[source]))
            if job.kind == "long":
                figures.add(row, job.seed, "curve", read_curve(model))
    print(f"{row}, seed {job.seed}: done", flush=True)


def list_jobs(args: argparse.Namespace) -> list[Job]:
    """All rows of the first seed, then those of the next; last the long ones."""
    jobs = []
    for seed in range(args.seeds):
        jobs += [Job(variant, seed, "short") for variant in args.variants]
        jobs += [Job(variant, seed, "held_out") for variant in HELD_OUT_VARIANTS if variant in args.variants]
    return jobs + [Job(variant, 0, "long") for variant in LONG_VARIANTS if variant in args.variants]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder with clip, for the trainings")
    parser.add_argument("--output", type=Path, default=FIGURES, help="JSON file of all figures")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time; set OMP_NUM_THREADS=1 with several")
    args = parser.parse_args()
    args.data, args.work = args.data.resolve(), args.work.resolve()
    (args.work / "ablation").mkdir(parents=True, exist_ok=True)
    args.seen = args.work / "ablation" / "seen.txt"
    write_seen(args, args.seen)
    figures = Figures(args.output)
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda job: make_row(job, figures, args), list_jobs(args)))


if __name__ == "__main__":
    main()
