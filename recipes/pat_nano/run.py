"""Makes pat-nano from nothing: text tower, convolutional teacher, vision tower, PAT. Run it again to go on.


python recipes/pat_nano/run.py --data DATA --class-names LISTS --work WORK [--wordnet /usr/share/wordnet]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from splits import divide

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
SETS = ["camvid", "msrc_v2", "voc_animals", "labelme_facade", "coco_subset", "clothing_ccp"]


def stage(title: str, done: Path, *command: str | Path) -> None:
    """Runs one stage unless what it makes is there already."""
    if done.exists():
        print(f"{title}: done ({done})", flush=True)
        return
    print(f"{title}: {done} ...", flush=True)
    subprocess.run([sys.executable, *map(str, command)], check=True, cwd=REPOSITORY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--class-names", type=Path, required=True, help="folder of the benchmarks' class name lists")
    parser.add_argument("--work", type=Path, required=True, help="folder for caches, checkpoints and results")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--minutes", type=float, default=150, help="time for the vision tower")
    args = parser.parse_args()
    data, lists, work = args.data.resolve(), args.class_names.resolve(), args.work.resolve()
    divide(data, work / "data", SETS)
    data = work / "data"
    common = ["--data", data, "--work", work]
    text = [HERE / "text_tower.py", *common, "--class-names", lists, "--wordnet", args.wordnet, "--threads", "2"]
    stage("text tower", work / "text", *text)
    teacher = [HERE / "conv_teacher.py", *common, "--text", work / "text"]
    stage("convolutional teacher", work / "conv_teacher.safetensors", *teacher)
    vision = [HERE / "vision_tower.py", *common, "--minutes", str(args.minutes)]
    stage("vision tower", work / "clip-final", *vision)
    pat = ["examples/train.py", "--config", "configs/nano_pat.yaml", "--clip", work / "clip-final", "--data", data]
    unfinished = ["--resume"] if (work / "pat-nano" / "checkpoints").is_dir() else []
    stage("PAT", work / "pat-nano" / "config.json", *pat, "--output_dir", work / "pat-nano", *unfinished)
    embedded = REPOSITORY / "src" / "transformers_pat" / "pat_nano"
    subprocess.run([sys.executable, HERE / "embed.py", work / "pat-nano", embedded], check=True, cwd=REPOSITORY)


if __name__ == "__main__":
    main()
