"""Ctrl-C and SIGTERM in long commands: they stop within seconds, say where they are, and the same command goes on."""

import re
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from transformers_pat.archive import TokenArchive

from ..support.tiny import photo
from ..support.training import ENVIRONMENT

NUM_PHOTOS = 150


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(NUM_PHOTOS):
        photo(64, 64, seed=number).save(folder / f"{number}.png")
    return folder


def interrupt(arguments, is_working, number):
    """The command's exit code and last line, after it was sent a signal while at work."""
    command = [sys.executable, "-m", "transformers_pat.cli", *map(str, arguments)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    while not is_working():
        assert running.poll() is None, running.communicate()[1][-3000:]
        time.sleep(0.02)
    running.send_signal(number)
    _, errors = running.communicate(timeout=20)
    assert "Traceback" not in errors, errors[-3000:]
    return running.returncode, errors.strip().splitlines()[-1]


def test_segment(checkpoint, photos, tmp_path):
    output, number = tmp_path / "out", signal.SIGINT
    command = ["segment", photos, "--model", checkpoint, "--labels", "sky, tree", "--output", output, "--no-overwrite"]
    code, line = interrupt(command, lambda: len(list(output.glob("*.json"))) > 2, number)
    assert code == 128 + number
    done = int(re.fullmatch(rf"Interrupted: (\d+) of {NUM_PHOTOS} photos done; .* --no-overwrite .*", line)[1])
    results = list(output.iterdir())
    assert len(list(output.glob("*.json"))) == done and not [path for path in results if path.name.startswith(".")]
    for path in output.glob("*.png"):
        Image.open(path).load()
    again = subprocess.run(
        [sys.executable, "-m", "transformers_pat.cli", *map(str, command), "--quiet"], capture_output=True, text=True
    )
    assert again.returncode == 0, again.stderr
    assert len(list(output.glob("*.json"))) == NUM_PHOTOS


def test_tokenize(checkpoint, photos, tmp_path):
    output, number = tmp_path / "tokens", signal.SIGTERM
    command = ["tokenize", photos, "--model", checkpoint, "--output", output, "--photos-per-shard", "8"]
    code, line = interrupt(command, lambda: list(output.glob("*.parquet")), number)
    assert code == 128 + number
    assert re.fullmatch(r"Interrupted: \d+ photos are in .*; the same command goes on from there", line)
    assert subprocess.run([sys.executable, "-m", "transformers_pat.cli", *map(str, command)]).returncode == 0
    archive = TokenArchive(output)
    assert len(archive) == NUM_PHOTOS and archive.verify() == []
