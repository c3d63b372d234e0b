"""What thirty photos bring: pat-nano on other photos of a data set, before and after `transformers-pat train --data`.

python -m benchmarks.fine_tuning --data DATA

DATA has msrc_v2 and clothing_ccp as plain folders. pat-nano was trained on the masks of most of these photos already,
so there is little left to learn from thirty of them; notebooks/3_fine_tune.ipynb has a case that is new to it. Writes
docs/results/fine_tuning.md and .json. Fifteen minutes on two cores.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from transformers_pat.evaluation import report

ROOT = Path(__file__).parents[1]
SETS = ("msrc_v2", "clothing_ccp")
PHOTOS, TEST_PHOTOS = 30, 300
COMMAND = (sys.executable, "-m", "transformers_pat.cli")


def split(source: Path, target: Path) -> int:
    """`target/mine` with 30 photos and no splits, `target/test` with 300 others; returns the number of these."""
    names = sorted({name for path in (source / "splits").iterdir() for name in path.read_text().split()})
    chosen = np.random.default_rng(0).permutation(names).tolist()
    photos = {path.stem: path for path in (source / "images").iterdir()}
    test = chosen[PHOTOS : PHOTOS + TEST_PHOTOS]
    for folder, part in (("mine", chosen[:PHOTOS]), ("test", test)):
        for kind in ("images", "masks"):
            (target / folder / kind).mkdir(parents=True)
        for name in part:
            os.symlink(photos[name], target / folder / "images" / photos[name].name)
            os.symlink(source / "masks" / f"{name}.png", target / folder / "masks" / f"{name}.png")
        shutil.copy(source / "classes.txt", target / folder)
    (target / "test" / "splits").mkdir()
    (target / "test" / "splits" / "test.txt").write_text("\n".join(test))
    return len(test)


def measure(model: str, work: Path) -> float:
    """mIoU on the test photos."""
    output = work / f"evaluated-{Path(model).name}"
    data = ("--data", f"{work / 'test'}:test", "--output", output)
    subprocess.run([*COMMAND, "evaluate", "--model", model, *data], check=True, capture_output=True)
    (scores,) = json.loads((output / "results.json").read_text())["data"].values()
    return scores["mean_iou"]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    args, flags = parser.parse_known_args()
    rows = []
    for name in SETS:
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            tested = split((args.data / name).resolve(), work)
            before, started = measure("pat-nano", work), time.perf_counter()
            train = ("train", "--data", work / "mine", "--output_dir", work / "run", "--validate_every", "0", *flags)
            subprocess.run([*COMMAND, *train], check=True, capture_output=True)
            minutes = (time.perf_counter() - started) / 60
            rows.append(
                {
                    "data": name,
                    "tested": tested,
                    "minutes": minutes,
                    "before": before,
                    "after": measure(str(work / "run"), work),
                }
            )
            print(rows[-1], flush=True)
    table = report.markdown_table(
        ("data", "photos to learn from", "photos tested", "minutes", "mIoU of pat-nano", "mIoU after"),
        [
            (
                row["data"],
                str(PHOTOS),
                str(row["tested"]),
                *(f"{row['minutes']:.1f}", f"{row['before']:.3f}"),
                f"{row['after']:.3f}",
            )
            for row in rows
        ],
    )
    note = (
        "pat-nano was trained on the masks of most of these photos already: thirty of them hold little that is new to "
        "it. `notebooks/3_fine_tune.ipynb` has a case that is new."
    )
    command = shlex.join(["python", "-m", "benchmarks.fine_tuning", *sys.argv[1:]])
    record = {"command": command, **report.describe_machine(torch.device("cpu")), "rows": rows}
    report.write_report(
        ROOT / "docs" / "results" / "fine_tuning.json", record, "Fine-tuning on thirty photos", [note, table]
    )


if __name__ == "__main__":
    main()
