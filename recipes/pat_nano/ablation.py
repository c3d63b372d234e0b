"""Trains every row of the ablation, equally and with several seeds, and evaluates it. Run it again to go on.

    python recipes/pat_nano/export.py --output WORK/clip     # the CLIP of pat-nano, if the recipe left none
    python recipes/pat_nano/ablation.py --data DATA --work WORK

Figures go to docs/results/ablation.json as soon as they are there, from which `recipes/pat_nano/evidence` makes its
tables; a row that the file has is not trained again. Trained models stay in WORK/ablation.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import yaml
from splits import MEASURED

from transformers_pat.data.base import read_classes

# What makes so many trainings affordable.
SHORTER = {"crop_size": 160, "warmup_steps": 50, "ema_decay": 0.0, "validation": []}
REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs" / "nano_pat.yaml"
FIGURES = REPOSITORY / "docs" / "results" / "ablation.json"
# What differs from the PAT of configs/nano_pat.yaml.
VARIANTS: dict[str, dict] = {
    "pat": {},
    "baseline": {"token_guidance": False},
    "no_residual": {"embedding_residual_bound": 0.0},
    "dense_guidance": {"guidance_source": "dense", "embedding_residual_bound": 0.0},
    "dense_residual": {"guidance_source": "dense"},
    "continuous": {"quantize": False},
    "one_level": {"feature_layers": [[2, 4, 6, 8]], "level_strides": [0.5], "codebook_sizes": [1024]},
    "tight_coupling": {"segmentation_updates_codes": True},
    "no_pixel_branch": {"reconstruction_loss_weight": 0.0},
    "no_feature_head": {"feature_loss_weight": 0.0},
}
# Variants that are also trained without these classes.
HELD_OUT_VARIANTS = ("pat", "baseline", "no_residual", "dense_residual")
HELD_OUT = ("cow", "horse", "sky", "water", "flower", "boat", "window", "fence", "bus")


class Figures:
    """The figures of all rows, {row: {seed: {"pixels": {set: scores}, ...}}}, in one JSON file."""

    def __init__(self, path: Path):
        self.path, self._lock = path, Lock()
        self.rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def has(self, row: str, seed: int, source: str) -> bool:
        return source in self.rows.get(row, {}).get(str(seed), {})

    def add(self, row: str, seed: int, source: str, results: dict) -> None:
        kept = ("mean_iou", "boundary_mean_iou")
        figures = {}
        for name, result in results.items():
            figures[name] = {score: result[score] for score in kept}
            for group in ("seen", "unseen"):
                if group in result:
                    figures[name][group] = {score: result[group][score] for score in kept}
        with self._lock:
            self.rows.setdefault(row, {}).setdefault(str(seed), {})[source] = figures
            partial = self.path.with_suffix(".part")
            partial.write_text(json.dumps(self.rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            os.replace(partial, self.path)


def hold_out(folder: str, data: Path) -> list[str]:
    """The held-out classes that a data set has."""
    listed = read_classes(data / folder / "classes.txt").values()
    return ["background", *(name for name in HELD_OUT if name in listed)]


def write_seen(args: argparse.Namespace, path: Path) -> None:
    """A class list of all that is trained without held-out classes, for the figures of seen and unseen ones."""
    folders = [source["folder"] for source in yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["train"]]
    names = {name for folder in folders for name in read_classes(args.data / folder / "classes.txt").values()}
    lines = [f"{index}: {name}" for index, name in enumerate(sorted(names - set(HELD_OUT)))]
    path.write_text("\n".join(lines), encoding="utf-8")


def train(row: str, variant: str, seed: int, held_out: bool, args: argparse.Namespace) -> Path:
    """One training by examples/train.py, gone on with if it was cut off; returns its folder."""
    output = args.work / "ablation" / f"{row}_{seed}"
    if not (output / "config.json").is_file():
        config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        config["model"] |= VARIANTS[variant]
        config |= SHORTER | {"max_steps": args.steps, "seed": seed}
        if held_out:
            for source in config["train"]:
                source["ignored_classes"] = hold_out(source["folder"], args.data)
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        where = ["--clip", args.work / "clip", "--data", args.data, "--output_dir", output]
        run("examples/train.py", "--config", output / "config.yaml", *where, "--resume", log=output / "train.log")
        shutil.rmtree(output / "checkpoints", ignore_errors=True)
    return output


def evaluate(model: Path, args: argparse.Namespace, source: str, *flags: str | Path) -> dict:
    """All measured sets by examples/evaluate.py."""
    output = model / f"evaluation_{source}"
    sets = [args.data / f"{name}:{split}" for name, split in MEASURED.items()]
    where = ["--model", model, "--shortest_edge", "256", "--data", *sets, "--output", output]
    run("examples/evaluate.py", *where, *flags, log=model / "evaluate.log")
    return json.loads((output / "results.json").read_text(encoding="utf-8"))["data"]


def run(*command: str | Path, log: Path) -> None:
    with log.open("a", encoding="utf-8") as file:
        subprocess.run([sys.executable, *map(str, command)], check=True, cwd=REPOSITORY, stdout=file, stderr=file)


def make_row(job: tuple[str, int, bool], figures: Figures, args: argparse.Namespace) -> None:
    """Train and evaluate one variant with one seed, as far as that is not done."""
    variant, seed, held_out = job
    row = f"{variant}_held_out" if held_out else variant
    wanted: dict[str, list[str | Path]] = {"pixels": ["--seen", args.seen] if held_out else []}
    if variant == "pat" and not held_out:
        wanted["codes"] = ["--codes_only"]
        if seed == 0:
            wanted["training_free"] = ["--floor"]
    for source, flags in wanted.items():
        if not figures.has(row, seed, source):
            model = train(row, variant, seed, held_out, args)
            figures.add(row, seed, source, evaluate(model, args, source, *flags))
    print(f"{row}, seed {seed}: done", flush=True)


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
    jobs = [
        (variant, seed, held_out)
        for seed, held_out, variant in itertools.product(range(args.seeds), (False, True), args.variants)
        if not held_out or variant in HELD_OUT_VARIANTS
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda job: make_row(job, figures, args), jobs))


if __name__ == "__main__":
    main()
