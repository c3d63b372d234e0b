"""The example scripts, run as a user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from transformers_pat import PatForSemanticSegmentation

from .test_data import write_set

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""},
    )


@pytest.fixture
def data(tmp_path):
    mask = np.zeros((24, 32), dtype=np.uint8)
    mask[:, 16:] = 1
    folder = write_set(tmp_path / "data" / "toy", {0: "road", 1: "car"}, [mask, mask])
    (folder / "splits" / "val.txt").write_text("p0")
    return tmp_path / "data"


def test_train_and_resume(clip_folder, data, tmp_path):
    config = tmp_path / "config.yaml"
    model = {"hidden_size": 16, "codebook_sizes": [8, 8, 8], "codebook_dim": 4, "refiner_channels": 4}
    config.write_text(
        f"clip: {clip_folder}\ndata: {data}\nsets: {{toy: 1}}\nvalidation: {{toy: val}}\n"
        f"model: {json.dumps(model)}\ncrop_size: 32\nbatch_size: 2\nmax_steps: 4\nwarmup_steps: 1\nsave_every: 1\n"
        f"validate_every: 4\nworkers: 0\noutput_dir: {tmp_path / 'run'}\n"
    )
    trained = run("train.py", "--config", config)
    assert trained.returncode == 0, trained.stderr
    assert "mean_iou/toy" in trained.stdout + trained.stderr
    again = run("train.py", "--config", config, "--resume", "--max_steps", 8)
    assert again.returncode == 0, again.stderr
    # Old checkpoints are pruned, never the newest.
    assert {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()} == {"checkpoint_6", "checkpoint_7"}
    model = PatForSemanticSegmentation.from_pretrained(tmp_path / "run")
    assert all(float(codebook.num_updates) == 8 for codebook in model.pat.codebooks)


def test_mistakes_end_in_one_line(data, tmp_path):
    missing = run("train.py", "--config", tmp_path / "nothing.yaml")
    assert missing.returncode == 2 and "no file" in missing.stderr and "Traceback" not in missing.stderr
    config = tmp_path / "typo.yaml"
    config.write_text(f"learning_rat: 1\nclip: x\ndata: y\noutput_dir: {tmp_path}\n")
    typo = run("train.py", "--config", config)
    assert typo.returncode != 0 and "learning_rat" in typo.stderr
