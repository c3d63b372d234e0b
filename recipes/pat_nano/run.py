"""Makes pat-nano from nothing: names, text tower, teacher, vision tower, PAT. Run it again to go on.

python recipes/pat_nano/run.py --data DATA --class-names LISTS --work WORK [--wordnet /usr/share/wordnet]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from image_names import write_names

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
EMBEDDED = REPOSITORY / "src" / "transformers_pat" / "pat_nano"


def stage(title: str, done: Path, *command: str | Path) -> None:
    """Runs one stage unless what it makes is there already."""
    if done.exists():
        print(f"{title}: done ({done})", flush=True)
        return
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {title}: {done} ...", flush=True)
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=REPOSITORY)


def make_clip(args: argparse.Namespace, common: list[str | Path]) -> None:
    """Both towers, from nothing."""
    work = args.work.resolve()
    lists = ["--class-names", args.class_names.resolve(), "--wordnet", args.wordnet]
    stage("text space and text tower", work / "text", HERE / "text_tower.py", *common, *lists, "--threads", "2")
    stage("the teacher's map to text space", work / "teacher.pt", HERE / "teacher_map.py", *common, "--threads", "2")
    photos = ["--data", args.data.resolve(), "--names", work / "names.json", "--output", work / "photos.pt"]
    stage("photos", work / "photos.pt", HERE / "crops.py", *photos)
    inputs = ["--photos", work / "photos.pt", "--teacher", work / "teacher.pt", "--output", work]
    limits = ["--minutes", str(args.minutes), "--device", args.device]
    stage("vision tower", work / "clip", HERE / "vision_tower.py", *inputs, *limits)
    stage("CLIP", work / "clip", HERE / "export.py", "--work", work, "--output", work / "clip")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--class-names", type=Path, required=True, help="folder of the benchmarks' class name lists")
    parser.add_argument("--work", type=Path, required=True, help="folder for caches, checkpoints and results")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--minutes", type=float, default=150, help="time for the vision tower")
    parser.add_argument("--device", default="cpu", help="where the vision tower is trained")
    args = parser.parse_args()
    data, work = args.data.resolve(), args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    common: list[str | Path] = ["--data", data, "--work", work]
    if not (work / "names.json").is_file():
        write_names(data, work / "names.json")
    if not (work / "clip").is_dir():
        make_clip(args, common)
    train = ["examples/train.py", "--config", "configs/nano_pat.yaml", "--data", data, "--clip", work / "clip"]
    stage("PAT", work / "pat-nano" / "config.json", *train, "--output_dir", work / "pat-nano", "--resume")
    stage("what the CLIP knows", work / "measure.json", HERE / "measure.py", *common)  # trains a probe on masks
    stage("the packaged folder", work / "embedded", HERE / "embed.py", work / "pat-nano", work / "embedded")
    print(f"To package it: rm -r {EMBEDDED}; cp -r {work / 'embedded'} {EMBEDDED}")


if __name__ == "__main__":
    main()
