"""A place to train in, and runs of the command that trains there."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from transformers import CLIPImageProcessorPil

from transformers_pat.cli.arguments import run_script
from transformers_pat.cli.train import main

from .data import write_set
from .tiny import save_tiny_clip

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
TRAIN = Path(__file__).parents[2] / "examples" / "train.py"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A tiny CLIP, two data sets with different class lists, and a config for both."""
    folder = tmp_path_factory.mktemp("training")
    save_tiny_clip(folder / "clip")
    CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(
        folder / "clip"
    )
    rng = np.random.default_rng(0)
    blocks = [np.kron(rng.integers(0, 3, (3, 4)), np.ones((20, 20))).astype(np.uint8) for _ in range(9)]
    write_set(folder / "data" / "street", {0: "road", 1: "car", 2: "sky"}, blocks)
    animals = write_set(folder / "data" / "animals", {0: "background", 1: "dog", 2: "cat"}, blocks[:5])
    (animals / "splits" / "val.txt").write_text("p0\np1")
    model = {"hidden_size": 16, "codebook_sizes": [8, 8, 8], "codebook_dim": 4, "segmenter_channels": 8}
    (folder / "config.yaml").write_text(
        f"clip: {folder / 'clip'}\ndata: {folder / 'data'}\n"
        f"train: [{{folder: street, weight: 2}}, 'animals:train']\nmodel: {json.dumps(model)}\n"
        "crop_size: 32\nbatch_size: 2\nmax_steps: 20\nwarmup_steps: 2\nlog_every: 1\nsave_every: 5\nworkers: 0\n"
        "validation: []\nsynonyms:\n"  # not given
    )
    return folder


def command(workplace, output, *arguments, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [
        *(sys.executable, *(launcher if processes > 1 else []), str(TRAIN)),
        *("--config", str(workplace / "config.yaml"), "--output_dir", str(output), *map(str, arguments)),
    ]


def train(workplace, output, *arguments, processes=1, environment=(), **kwargs):
    return subprocess.run(
        command(workplace, output, *arguments, processes=processes),
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, **dict(environment)},
        **kwargs,
    )


def succeed(*arguments, **kwargs):
    finished = train(*arguments, **kwargs)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout + finished.stderr


def refused(*arguments, **kwargs):
    """The last line of a run that should end in one line, without a stack trace."""
    finished = train(*arguments, **kwargs)
    assert finished.returncode != 0 and "Traceback" not in finished.stderr, finished.stderr[-3000:]
    return finished.stderr.strip().splitlines()[-1]


def kill_with_children(run):
    """SIGKILL for all at once: torchrun puts its workers into sessions of their own, where they would train on."""
    started = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    run.wait()
    psutil.wait_procs(started, timeout=60)


@pytest.fixture
def mistake(workplace, tmp_path, monkeypatch, capsys):
    """Function that trains in this process and returns the line that it ends with."""

    def run(*arguments, output=tmp_path):
        monkeypatch.setattr(sys, "argv", command(workplace, output, *arguments)[1:])
        with pytest.raises(SystemExit) as ended:
            run_script(main)
        told = capsys.readouterr().err if isinstance(ended.value.code, int) else ended.value.code
        return told.strip().splitlines()[-1]

    return run
