"""Trains every row of the ablation, equally and with several seeds, and evaluates it. Run it again to go on.

    python recipes/pat_nano/ablation.py --data DATA --work WORK --seeds 3

`recipes/pat_nano/evidence` makes the tables of docs/evidence.md of what this leaves in WORK/ablation.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from splits import MEASURED

from transformers_pat.data.base import read_classes

# What makes so many trainings affordable.
SHORTER = {"crop_size": 160, "warmup_steps": 50, "validation": []}
REPOSITORY = Path(__file__).resolve().parents[2]
CONFIG = REPOSITORY / "configs" / "nano_pat.yaml"
# What differs from the PAT of configs/nano_pat.yaml.
VARIANTS: dict[str, dict] = {
    "pat": {},
    "baseline": {"token_guidance": False},
    "continuous": {"quantize": False},
    "one_level": {"feature_layers": [[2, 3, 4, 6]], "level_strides": [0.5], "codebook_sizes": [1024]},
    "tight_coupling": {"segmentation_updates_codes": True},
    "no_pixel_branch": {"reconstruction_loss_weight": 0.0},
    "no_feature_head": {"feature_loss_weight": 0.0},
}
# Variants that are also trained without these classes.
HELD_OUT_VARIANTS = ("pat", "baseline")
HELD_OUT = ("sky", "cow", "boat", "bus", "sofa", "couch", "chair", "flower", "fence")


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


def train(name: str, args: argparse.Namespace, seed: int, without_classes: bool) -> Path:
    """One training by examples/train.py, gone on with if it was cut off; returns its folder."""
    suffix = "_held_out" if without_classes else ""
    output = args.work / "ablation" / f"{name}{suffix}_{seed}"
    if not (output / "config.json").is_file():
        config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
        config["model"] |= VARIANTS[name]
        config |= SHORTER | {"max_steps": args.steps, "seed": seed}
        if without_classes:
            for source in config["train"]:
                source["ignored_classes"] = hold_out(source["folder"], args.data)
        output.mkdir(parents=True, exist_ok=True)
        (output / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        where = ["--clip", args.work / "clip-final", "--data", args.data, "--output_dir", output]
        run("examples/train.py", "--config", output / "config.yaml", *where, "--resume", log=output / "train.log")
    return output


def evaluate(model: Path, args: argparse.Namespace, source: str, *flags: str | Path) -> None:
    """All measured sets by examples/evaluate.py, into a folder beside the model."""
    output = model / f"evaluation_{source}"
    if not (output / "results.json").is_file():
        sets = [args.data / f"{name}:{split}" for name, split in MEASURED.items()]
        where = ["--model", model, "--shortest_edge", "256", "--data", *sets, "--output", output]
        run("examples/evaluate.py", *where, *flags, log=model / "evaluate.log")


def run(*command: str | Path, log: Path) -> None:
    with log.open("a", encoding="utf-8") as file:
        subprocess.run([sys.executable, *map(str, command)], check=True, cwd=REPOSITORY, stdout=file, stderr=file)


def row(job: tuple[str, int, bool], args: argparse.Namespace) -> None:
    """Train and evaluate one variant with one seed."""
    name, seed, without_classes = job
    model = train(name, args, seed, without_classes)
    if without_classes:
        evaluate(model, args, "pixels", "--seen", args.seen)
        return
    evaluate(model, args, "pixels")
    if name == "pat":
        evaluate(model, args, "codes", "--codes_only")
    if name == "pat" and seed == 0:
        evaluate(model, args, "floor", "--floor")
    print(f"{name}, seed {seed}: done", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder with clip-final, for trainings and results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=220)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time; set OMP_NUM_THREADS=1 with several")
    args = parser.parse_args()
    args.data, args.work = args.data.resolve(), args.work.resolve()
    (args.work / "ablation").mkdir(parents=True, exist_ok=True)
    args.seen = args.work / "ablation" / "seen.txt"
    write_seen(args, args.seen)
    jobs = [(name, seed, False) for seed, name in itertools.product(range(args.seeds), args.variants)]
    held_out = [name for name in HELD_OUT_VARIANTS if name in args.variants]
    jobs += [(name, seed, True) for seed, name in itertools.product(range(args.seeds), held_out)]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda job: row(job, args), jobs))


if __name__ == "__main__":
    main()
