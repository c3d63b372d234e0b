"""A Hub that is out of reach, or ends in the middle of a file: one line, nothing lost, and the next try goes on."""

import os
import subprocess
import sys
import threading

import pytest
from PIL import Image

from ..support.stub_hub import StubHub


@pytest.fixture
def hub(checkpoint):
    with StubHub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        hub.repos["user/pat-tiny"] = {path.name: path.read_bytes() for path in checkpoint.iterdir() if path.is_file()}
        yield hub
        hub.shutdown()


def segment(tmp_path, environment, model="user/pat-tiny"):
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "photo.png")
    options = ["--labels", "sky, tree", "--output", str(tmp_path / "out"), "--model", model]
    return subprocess.run(
        [sys.executable, "-m", "transformers_pat.cli", "segment", str(tmp_path / "photo.png"), *options],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), **environment},
    )


def test_a_download_that_ends_in_the_middle(hub, tmp_path):
    hub.cut_off = True
    failed = segment(tmp_path, hub.environment)
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1, failed.stderr
    assert "user/pat-tiny can't be loaded: peer closed connection" in failed.stderr
    hub.cut_off = False
    assert segment(tmp_path, hub.environment).returncode == 0
    assert segment(tmp_path, {"HF_HUB_OFFLINE": "1"}).returncode == 0  # it is in the cache


def test_a_hub_out_of_reach(hub, tmp_path):
    unreachable = {**hub.environment, "HF_ENDPOINT": "http://127.0.0.1:9"}
    failed = segment(tmp_path, unreachable)
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1, failed.stderr
    assert "user/pat-tiny" in failed.stderr


def test_an_unknown_name(hub, tmp_path):
    failed = segment(tmp_path, hub.environment, "user/pat-tyni")
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1, failed.stderr
    assert "user/pat-tyni" in failed.stderr
