"""What recipes/pat_nano/evidence computes, on cases whose answer is known."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from recipes.pat_nano.evidence.ablation import verdict
from recipes.pat_nano.evidence.tokens import cell_labels, compress, mean_average_precision, mutual_information
from recipes.pat_nano.splits import MEASURED

from ..support.data import stripes, write_set


def test_the_whole_document_is_written(tmp_path):
    classes = {0: "sky", 1: "tree", 2: "car"}
    for name, split in MEASURED.items():
        write_set(tmp_path / "data" / name, classes, [stripes(0, 1, 2, 255, size=(60, 40))], split)
    figures = {"mean_iou": 0.25, "boundary_mean_iou": 0.125}
    result = {**figures, "seen": figures, "unseen": figures}
    for variant in ("pat_0", "pat_1", "baseline_0", "pat_held_out_0", "baseline_held_out_0"):
        write_results(tmp_path / "ablation" / variant, [result] * 3)
    (tmp_path / "images").mkdir()
    output = tmp_path / "evidence.md"
    arguments = ["--data", tmp_path / "data", "--ablation", tmp_path / "ablation", "--output", output]
    # As a user calls it: functions of a module named __main__ would not reach the processes.
    command = [sys.executable, "-m", "recipes.pat_nano.evidence", *map(str, arguments)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[2])
    text = output.read_text()
    assert "{" not in text
    assert "| **PAT** | 0.250 ± 0.000 | 0.250 ± 0.000 | 0.250 ± 0.000 | 0.250 ± 0.000 | 2 |" in text
    assert text.count("| baseline") == 4
    assert all((tmp_path / "images" / name).is_file() for name in ("codes.jpg", "levels_china.jpg"))


def write_results(folder: Path, results: list[dict]) -> None:
    data = {f"{name} {split}": result for (name, split), result in zip(MEASURED.items(), results, strict=True)}
    (folder / "evaluation_pixels").mkdir(parents=True)
    (folder / "evaluation_pixels" / "results.json").write_text(json.dumps({"data": data}))


@pytest.mark.parametrize(
    ("pat", "unseen", "grade"),
    [
        ([(0.52, 0.5, 0.5), (0.54, 0.5, 0.5)], 0.5, "consistent gain"),
        ([(0.515, 0.5, 0.5), (0.545, 0.5, 0.5)], 0.5, "weak evidence"),  # above the spread, below twice the spread
        ([(0.58, 0.5, 0.47), (0.60, 0.5, 0.47)], 0.5, "weak evidence"),  # one set loses
        ([(0.52, 0.5, 0.5), (0.54, 0.5, 0.5)], 0.4, "weak evidence"),  # the held-out classes lose
        ([(0.51, 0.5, 0.5), (0.57, 0.5, 0.5)], 0.5, "no gain"),  # the seeds differ more than PAT and baseline
        ([(0.52, 0.5, 0.47), (0.54, 0.5, 0.47)], 0.5, "no gain"),
    ],
)
def test_verdict(tmp_path, pat, unseen, grade):
    for variant, seeds in {"pat": pat, "baseline": [(0.5, 0.5, 0.5)] * 2}.items():
        for seed, scores in enumerate(seeds):
            write_results(tmp_path / f"{variant}_{seed}", [{"mean_iou": score} for score in scores])
            held_out = {"unseen": {"mean_iou": unseen if variant == "pat" else 0.5}}
            write_results(tmp_path / f"{variant}_held_out_{seed}", [held_out] * 3)
    assert f"n = 2): **{grade}**." in verdict(tmp_path)


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
