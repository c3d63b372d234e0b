"""Folders that can't be written: each command ends in one line that names the place."""

import contextlib
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from transformers_pat.cli.app import app

from ..support.data import stripes, write_set
from ..support.documents import ROOT

COMMANDS = {
    "segment": ["segment", "photos", "--labels", "sky, tree", "--model", "MODEL", "--output", "OUT"],
    "annotations": [*"segment photos --labels sky,tree --model MODEL --annotations coco --output OUT".split()],
    "reconstruct": ["reconstruct", "photos", "--model", "MODEL", "--output", "OUT"],
    "codes": ["codes", "photos", "--model", "MODEL", "--output", "OUT"],
    "tokenize": ["tokenize", "photos", "--model", "MODEL", "--output", "OUT"],
    "query": ["query", "tokens", "sky", "--model", "MODEL", "--output", "OUT"],
    "export": ["export", "OUT", "--model", "MODEL"],
    "train": ["train", "--init", "MODEL", "--train", "set:train", "--max_steps", "1", "--output_dir", "OUT"],
    "evaluate": ["evaluate", "--data", "set:train", "--model", "MODEL", "--output", "OUT"],
}


def call(folder, checkpoint, output, arguments):
    with contextlib.chdir(folder):
        named = [{"MODEL": str(checkpoint), "OUT": str(output)}.get(argument, argument) for argument in arguments]
        return CliRunner().invoke(app, named)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, checkpoint):
    folder = tmp_path_factory.mktemp("unwritable")
    (folder / "photos").mkdir()
    Image.new("RGB", (40, 30), "blue").save(folder / "photos" / "photo.png")
    write_set(folder / "set", {0: "sky", 1: "car"}, [stripes(0, 1)] * 2)
    assert call(folder, checkpoint, "tokens", COMMANDS["tokenize"]).exit_code == 0
    (folder / "file").touch()
    (folder / "locked").mkdir(mode=0o500)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_folder_that_cannot_be_made(folder, checkpoint, command):
    refused(call(folder, checkpoint, "file/out", COMMANDS[command]), "file")


@pytest.mark.parametrize("output", ["locked", "locked/out"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_folder(folder, checkpoint, command, output):
    if os.access(folder / "locked", os.W_OK):
        pytest.skip("root may write everywhere")
    if command == "export" and output == "locked":
        pytest.skip("takes the place of an empty folder")
    refused(call(folder, checkpoint, output, COMMANDS[command]), "locked")


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="for root on Linux")
def test_a_read_only_folder_without_roots_privilege():
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    again = [*drop, sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        [*again, "-k", "test_a_read_only_folder and not privilege"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0 and f"{2 * len(COMMANDS) - 1} passed" in done.stdout, done.stdout[-3000:]


def refused(done, name):
    assert done.exit_code in (1, 2) and isinstance(done.exception, SystemExit), (done.output, done.exception)
    assert name in done.output.strip().splitlines()[-1], done.output
