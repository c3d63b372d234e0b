"""Checkpoints of a run that is killed, stopped, interrupted, damaged, or not alone; full disks."""

import json
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from transformers_pat import PatForSemanticSegmentation
from transformers_pat.training import loop
from transformers_pat.training.config import TrainConfig

from ..support.training import ENVIRONMENT, command, kill_with_children, refused, succeed

SAVE_OFTEN = Path(__file__).parents[1] / "support" / "save_often.py"
LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.fixture(scope="module")
def saved(workplace):
    """Folder of a run with the checkpoints of its steps 5 and 10."""
    succeed(workplace, workplace / "saved", "--max_steps", 10)
    return workplace / "saved"


@pytest.fixture
def run(saved, tmp_path):
    """A copy of that run."""
    return shutil.copytree(saved, tmp_path / "run")


def start(workplace, output, *arguments, processes=1):
    """Start a long run; returns once it is training."""
    started = subprocess.Popen(
        command(workplace, output, "--max_steps", 100_000, *arguments, processes=processes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    while not list(output.glob("checkpoints/step_*[0-9]")):
        assert started.poll() is None, started.stderr.read()[-3000:]
        time.sleep(0.05)
    return started


def steps(output):
    return sorted(int(path.name.removeprefix("step_")) for path in (output / "checkpoints").glob("step_*[0-9]"))


def contents(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_two_processes_lose_no_checkpoint(tmp_path):
    finished = subprocess.run([*LAUNCHER, SAVE_OFTEN, tmp_path, "200"], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step_0000199", "step_0000200"]


def test_a_second_run_in_the_same_folder_stops_and_touches_nothing(workplace, tmp_path):
    first = start(workplace, tmp_path, "--workers", 1)
    first.send_signal(signal.SIGSTOP)
    before = contents(tmp_path)
    try:
        line = refused(workplace, tmp_path, "--resume")
        after = contents(tmp_path)
    finally:
        kill_with_children(first)
    assert line.startswith("error: another run is writing to") and "--output_dir" in line
    assert [path for path in before | after if before.get(path) != after.get(path)] == []
    succeed(workplace, tmp_path, "--resume", "--max_steps", max(steps(tmp_path)) + 1)  # killed, it holds no lock


@pytest.mark.parametrize(("stop", "processes"), [(signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGINT, 1)])
def test_a_signal_saves_a_checkpoint_and_stops(workplace, tmp_path, stop, processes):
    stopped = start(workplace, tmp_path, "--save_every", 7, "--workers", 1, processes=processes)
    stopped.send_signal(stop)
    text, errors = stopped.communicate(timeout=60)
    if processes == 1:  # torchrun itself prints a stack trace
        assert stopped.returncode == 128 + stop and "Traceback" not in errors
    (step,) = map(int, re.findall(r"stopped: .* --resume continues from step (\d+)", text))
    assert step == steps(tmp_path)[-1]
    succeed(workplace, tmp_path, "--resume", "--max_steps", step + 2, processes=processes)
    assert float(PatForSemanticSegmentation.from_pretrained(tmp_path).pat.codebooks[0].num_updates) == step + 2


def test_a_second_ctrl_c_ends_it_at_once(workplace, tmp_path):
    interrupted = start(workplace, tmp_path, "--workers", 1)
    for _ in range(2):
        interrupted.send_signal(signal.SIGINT)
        time.sleep(0.01)
    _, errors = interrupted.communicate(timeout=60)
    assert interrupted.returncode in (-signal.SIGINT, 128 + signal.SIGINT) and "Traceback" not in errors


@pytest.mark.parametrize("steps_done", [0, 10])
def test_ctrl_c_before_the_first_step_says_how_to_resume(run, tmp_path, monkeypatch, steps_done):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "run", interrupt)
    output = run if steps_done else tmp_path / "new"
    where = f"continues from {run / 'checkpoints' / 'step_0000010'}" if steps_done else "starts anew"
    with pytest.raises(SystemExit, match=f"interrupted: the same command with --resume {where}"):
        loop.train(TrainConfig(output_dir=str(output), clip="clip", train=["data:train"]))


def test_a_stray_folder_is_no_checkpoint(workplace, run):
    (run / "checkpoints" / "step_zzz").mkdir()
    succeed(workplace, run, "--resume", "--max_steps", 15)
    assert steps(run) == [10, 15] and (run / "checkpoints" / "step_zzz").is_dir()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", 1000),
        ("model.safetensors", 0),
        ("optimizer.bin", 1000),
        ("training.json", 7),
    ],
)
def test_a_damaged_checkpoint_is_named_with_the_way_back(mistake, workplace, run, name, content):
    newest = run / "checkpoints" / "step_0000010"
    (newest / name).write_bytes((newest / name).read_bytes()[:content])
    line = mistake("--resume", output=run)
    assert f"{newest / name} is damaged" in line and f"delete {newest} to continue from step_0000005" in line


def test_the_way_back_works(mistake, workplace, run):
    shutil.rmtree(run / "checkpoints" / "step_0000010")
    succeed(workplace, run, "--resume", "--max_steps", 10)
    shutil.rmtree(run / "checkpoints" / "step_0000005")
    (run / "checkpoints" / "step_0000010" / "training.json").write_text("{")
    assert mistake("--resume", output=run).endswith("to start anew")


@pytest.mark.parametrize(
    "change",
    [
        ("--model", json.dumps({"hidden_size": 32})),
        ("--objective", "tokenizer"),
        ("--ema_decay", 0.9),
        ("--seed", 1),
        ("--train", "animals:train"),
        ("--learning_rate", 0.1),
    ],
    ids=lambda change: change[0],
)
def test_a_resumed_run_has_the_options_of_its_checkpoint(mistake, run, change):
    line = mistake("--resume", *change, output=run)
    assert f"was made with {change[0].removeprefix('--')} " in line


def test_half_written_checkpoints_are_not_loaded_and_old_ones_go(workplace, tmp_path):
    output = tmp_path / "run"
    succeed(workplace, output, "--max_steps", 10)
    part = output / "checkpoints" / "step_0000011.part"
    part.mkdir()
    (part / "model.safetensors").write_bytes(b"half")
    succeed(workplace, output, "--resume")
    names = sorted(path.name for path in (output / "checkpoints").iterdir())
    assert names == ["step_0000015", "step_0000020"]
    model = PatForSemanticSegmentation.from_pretrained(output)
    assert all(float(codebook.num_updates) == 20 for codebook in model.pat.codebooks)


def test_a_full_disk_leaves_the_last_good_checkpoint(workplace, tmp_path):
    output = tmp_path / "run"
    succeed(workplace, output, "--max_steps", 5)
    saved = load_file(output / "checkpoints" / "step_0000005" / "model.safetensors")
    limit = 20_000  # bytes a file: less than the optimizer's state needs
    line = refused(
        workplace, output, "--resume", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert line.startswith("error: the checkpoint of step 10 can't be written") and "step_0000005" in line
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step_0000005"]
    kept = load_file(output / "checkpoints" / "step_0000005" / "model.safetensors")
    assert all(torch.equal(kept[name], saved[name]) for name in saved)
    succeed(workplace, output, "--resume")
    assert float(PatForSemanticSegmentation.from_pretrained(output).pat.codebooks[0].num_updates) == 20
