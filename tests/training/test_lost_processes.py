"""Processes of a run that are killed: the others end in one line that says how to go on, and resuming works."""

import psutil

from ..support.training import succeed
from .test_checkpoints import start, steps


def test_a_killed_loader(workplace, tmp_path):
    run = start(workplace, tmp_path, "--workers", 1)
    children = psutil.Process(run.pid).children()
    loaders = [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    assert loaders
    for loader in loaders:
        loader.kill()
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 1, errors[-3000:]
    # Somewhere: the progress bar may be drawn once more, and torch at times reports the same in a `__del__`.
    told = "error: a process that loads data was killed, perhaps for want of memory: the same command with"
    assert f"{told} --resume continues from" in errors, errors[-3000:]
    succeed(workplace, tmp_path, "--resume", "--max_steps", steps(tmp_path)[-1] + 2)


def test_a_killed_rank(workplace, tmp_path):
    run = start(workplace, tmp_path, processes=2)
    psutil.Process(run.pid).children()[1].kill()
    _, errors = run.communicate(timeout=60)  # torchrun tells what it thinks of it, with a stack trace
    assert run.returncode == 1
    print(errors[-6000:])
    assert "error: another process of this run has ended: the same command with --resume continues from" in errors
    succeed(workplace, tmp_path, "--resume", "--max_steps", steps(tmp_path)[-1] + 2, processes=2)
