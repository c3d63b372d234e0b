"""What recipes/pat_nano/evidence computes, on cases whose answer is known."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.pat_nano.evidence.ablation import Ablation
from recipes.pat_nano.evidence.tokens import cell_labels, compress, mean_average_precision, mutual_information
from recipes.pat_nano.splits import MEASURED

from ..support.data import stripes, write_set


def test_the_whole_document_is_written(tmp_path):
    classes = {0: "sky", 1: "tree", 2: "car"}
    for name, split in MEASURED.items():
        write_set(tmp_path / "data" / name, classes, [stripes(0, 1, 2, 255, size=(60, 40))], split)
    text = run("recipes.pat_nano.evidence", tmp_path, "--data", tmp_path / "data")
    assert "{" not in text
    assert all((tmp_path / "images" / name).is_file() for name in ("codes.jpg", "levels_china.jpg"))


def test_the_ablation_is_written(tmp_path):
    figures = {"mean_iou": 0.25, "boundary_mean_iou": 0.125}
    result = {**figures, "seen": figures, "unseen": figures}
    rows = {
        row: {"0": [result] * 3, "1": [result] * 3} for row in ("pat", "baseline", "pat_held_out", "baseline_held_out")
    }
    write_figures(tmp_path / "ablation.json", rows)
    figures = json.loads((tmp_path / "ablation.json").read_text())
    names = [f"{name} {split}" for name, split in MEASURED.items()]
    long = {"curve": {name: {"1000": 0.5, "500": 0.25} for name in names}, "pixels": dict.fromkeys(names, result)}
    figures |= {"pat_long": {"0": long}, "baseline_long": {"0": long}}
    (tmp_path / "ablation.json").write_text(json.dumps(figures))
    text = run("recipes.pat_nano.evidence.trainings", tmp_path, "--figures", tmp_path / "ablation.json")
    assert "{" not in text
    assert "| **PAT** | 0.250 ± 0.000 | 0.250 ± 0.000 | 0.250 ± 0.000 | 0.250 ± 0.000 | 2 |" in text
    assert "PAT over the baseline, mIoU: **+0.0000** ± 0.0000 (n = 2); it gains on every set" in text
    assert "| **PAT** | 0.250 | 0.250 | 0.250 | 0.250 |" in text
    assert (tmp_path / "images" / "learning_curves.png").is_file()


def run(module: str, folder: Path, *arguments) -> str:
    """What a command writes. As a user calls it: functions of a module named __main__ don't reach other processes."""
    (folder / "images").mkdir()
    output = folder / "document.md"
    command = [sys.executable, "-m", module, *map(str, arguments), "--output", str(output)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    return output.read_text()


def write_figures(path: Path, rows: dict[str, dict[str, list[dict]]]) -> None:
    """{row: {seed: scores of the three sets}} as recipes/pat_nano/ablation.py writes them."""
    names = [f"{name} {split}" for name, split in MEASURED.items()]
    figures = {
        row: {seed: {"pixels": dict(zip(names, scores, strict=True))} for seed, scores in seeds.items()}
        for row, seeds in rows.items()
    }
    path.write_text(json.dumps(figures))


@pytest.mark.parametrize(
    ("pat", "sentence"),
    [
        ([(0.52, 0.5, 0.5), (0.55, 0.5, 0.5)], "**+0.0117** ± 0.0071 (n = 2); it gains on every set"),
        ([(0.58, 0.5, 0.47), (0.58, 0.5, 0.47)], "**+0.0167** ± 0.0000 (n = 2); it loses on voc_animals"),
        ([(0.4, 0.5, 0.4)], "**−0.0667** (n = 1); it loses on camvid and voc_animals"),
    ],
)
def test_verdict(tmp_path, pat, sentence):
    rows = {"baseline": [(0.5, 0.5, 0.5)] * 2, "pat": pat}
    scores = {
        row: {
            str(seed): [{"mean_iou": score, "boundary_mean_iou": score} for score in of_seed]
            for seed, of_seed in enumerate(seeds)
        }
        for row, seeds in rows.items()
    }
    write_figures(tmp_path / "ablation.json", scores)
    assert f"- PAT over the baseline, mIoU: {sentence}" in Ablation(tmp_path / "ablation.json").verdicts()


def test_mean_average_precision():
    relevant = np.array([[1, 0], [1, 0], [0, 0], [0, 0]], dtype=bool)
    assert mean_average_precision(np.array([[4, 0], [3, 0], [2, 0], [1, 0]]), relevant) == 1
    # Relevant at ranks 2 and 4: (1/2 + 2/4) / 2. The class that no photo shows does not count.
    assert mean_average_precision(np.array([[3, 0], [1, 0], [4, 0], [2, 0]]), relevant) == pytest.approx(0.5)
    assert mean_average_precision(np.zeros((4, 2)), relevant) == 0.5  # no order at all: chance


def test_mutual_information():
    assert mutual_information(np.array([[0.5, 0], [0, 0.5]])) == pytest.approx(1)
    assert mutual_information(np.array([[0.25, 0.25], [0.25, 0.25]])) == pytest.approx(0)


def test_cells_take_the_label_in_their_middle():
    labels = np.zeros((40, 60), dtype=int)
    labels[20:, 30:] = 1
    assert cell_labels(labels, (2, 2)).tolist() == [[0, 0], [0, 1]]


def test_codecs_keep_within_the_budget():
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
        (160, 120), Image.Resampling.BICUBIC
    )
    for codec in ("JPEG", "WEBP"):
        assert compress(photo, codec, 10) is None  # not even a header
        small, large = compress(photo, codec, 1500), compress(photo, codec, 6000)
        assert 10 < small[0] < large[0] and small[1] < large[1] <= 1
