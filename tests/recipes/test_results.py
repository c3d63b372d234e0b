"""`python -m recipes.pat_nano.results`, on miniatures of the data sets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from recipes.pat_nano.results import ROWS
from recipes.pat_nano.splits import MEASURED

from ..support.data import stripes, write_set

ROOT = Path(__file__).parents[2]


def test_one_command_writes_all_results(tmp_path):
    classes = {0: "sky", 1: "tree", 2: "car"}
    for name, split in MEASURED.items():
        write_set(tmp_path / name, classes, [stripes(0, 1, 2, 255, size=(60, 40))], split)
    arguments = ["--data", str(tmp_path), "--output", str(tmp_path / "results.json"), "--workers", "0"]
    subprocess.run([sys.executable, "-m", "recipes.pat_nano.results", *arguments], check=True, cwd=ROOT)
    record = json.loads((tmp_path / "results.json").read_text())
    text = (tmp_path / "results.md").read_text()
    assert record["command"] in text and record["versions"]["torch"] in text
    for title in ROWS:
        scores = [record["segmentation"][title][name]["mean_iou"] for name in MEASURED]
        cells = " | ".join(f"{score:.3f}" for score in (*scores, sum(scores) / 3))
        assert f"| {title} | {cells} |" in text
    assert record["segmentation"]["PAT"] != record["segmentation"]["training-free baseline"]
    for name in MEASURED:
        for level in record["tokens"][name]:
            assert f"| {name} | {level['level']} | {level['codebook_size']} | {level['usage']:.1%} |" in text


@pytest.mark.parametrize("config", ["nano_pat", "nano_pat_ablation"])
def test_the_recipe_validates_on_the_measured_splits(config):
    values = yaml.safe_load((ROOT / "configs" / f"{config}.yaml").read_text())
    assert values["validation"] == [f"{name}:{split}" for name, split in MEASURED.items()]
