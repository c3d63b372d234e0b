"""The wheel alone, outside the repository: train, evaluate, segment."""

import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from .support.data import write_set
from .support.documents import ROOT

# What pip makes of the entry point of the wheel that comes first on the path.
SCRIPT = (
    "import sys; from importlib.metadata import entry_points;"
    "(script,) = entry_points(group='console_scripts', name='transformers-pat'); sys.exit(script.load()())"
)


@pytest.fixture
def run(tmp_path):
    """Runs Python in an empty folder, with the package from its wheel."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path / "dist"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    (tmp_path / "work").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["CUDA_VISIBLE_DEVICES"] = ""

    def run_python(*arguments):
        finished = subprocess.run(
            [sys.executable, *arguments], cwd=tmp_path / "work", env=environment, capture_output=True, text=True
        )
        assert finished.returncode == 0, finished.stderr[-3000:]
        return finished.stdout

    return run_python


def test_the_wheel_trains_evaluates_and_segments(run, tmp_path):
    assert run("-c", "import transformers_pat; print(transformers_pat.__file__)").startswith(str(tmp_path / "site"))
    work = tmp_path / "work"
    mask = np.repeat(np.eye(2, dtype=np.uint8), 40, axis=0).repeat(50, axis=1)
    write_set(work / "mine", {0: "road", 1: "car"}, [mask] * 8)
    options = ["--max_steps", "20", "--crop_size", "64", "--batch_size", "2", "--workers", "0"]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "-m", "transformers_pat.cli"]
    run(*launch, "train", "--init", "pat-nano", "--train", "mine:train", "--output_dir", "run", *options)
    run("-c", SCRIPT, "evaluate", "--model", "run", "--data", "mine:train", "--output", "results", "--workers", "0")
    assert "mIoU" in (work / "results" / "results.md").read_text(encoding="utf-8")
    photo = "mine/images/p0.jpg"
    printed = run("-c", SCRIPT, "segment", photo, "--model", "run", "--labels", "road, car", "--output", "out")
    assert "1 of 1 photos done" in printed and (work / "out" / "p0_overlay.png").is_file()
