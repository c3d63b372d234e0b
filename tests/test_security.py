"""What SECURITY.md promises."""

import ast
import io
import json
import os
import pickle
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from transformers_pat import PAT_NANO, PatForSemanticSegmentation, PatProcessor
from transformers_pat.archive import TokenArchive, TokenizedPhoto
from transformers_pat.archive.pictures import find_photo
from transformers_pat.cli.app import app
from transformers_pat.data import FolderDataset
from transformers_pat.image_io_pat import load_photo
from transformers_pat.training.checkpoints import newest_checkpoint

from .support.training import refused, succeed

SOURCES = sorted(Path(__file__).parents[1].glob("src/**/*.py"))
PHOTOS = Path(__file__).parents[1] / "examples" / "photos"


@pytest.fixture
def no_pickle(monkeypatch):
    """Makes unpickling fail, and `torch.load` without `weights_only=True`."""
    safe_load = torch.load

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    def load(*args, weights_only=None, **kwargs):
        assert weights_only is True
        return safe_load(*args, weights_only=True, **kwargs)

    monkeypatch.setattr(torch, "load", load)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_source_neither_unpickles_nor_evaluates(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [getattr(node, "module", None), *(alias.name for alias in node.names)]
            assert not {"pickle", "marshal", "shelve", "dill", "joblib"} & set(names)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "torch.load", "yaml.load", "os.system", "np.load"), called


def test_checkpoints_and_archives_are_read_without_pickle(no_pickle, tmp_path):
    model = PatForSemanticSegmentation.from_pretrained(PAT_NANO)
    model.save_pretrained(tmp_path / "saved")
    PatProcessor.from_pretrained(PAT_NANO).save_pretrained(tmp_path / "saved")
    result = CliRunner().invoke(app, ["tokenize", str(PHOTOS), "--output", str(tmp_path / "tokens"), "--workers", "1"])
    assert result.exit_code == 0, result.output
    assert len(list(TokenArchive(tmp_path / "tokens"))) == 2
    result = CliRunner().invoke(app, ["query", str(tmp_path / "tokens"), "cat"])
    assert result.exit_code == 0, result.output


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize("name", ["scheduler", "optimizer.bin", "custom_checkpoint_0.pkl", "random_states_0.pkl"])
def test_a_training_checkpoint_with_code_in_it_is_refused(workplace, tmp_path, name):
    run, mark = tmp_path / "run", tmp_path / "executed"
    succeed(workplace, run, "--max_steps", 2, "--save_every", 1)
    checkpoint = newest_checkpoint(run / "checkpoints")
    path = checkpoint / name if "." in name else checkpoint / "scheduler.bin"
    torch.save(Bomb(str(mark)), path)
    line = refused(workplace, run, "--max_steps", 3, "--save_every", 1, "--resume")
    assert path.name in line and "is damaged" in line
    assert not mark.exists()


def test_pickled_weights_are_not_loaded(tmp_path):
    shutil.copytree(PAT_NANO, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save(Bomb(str(tmp_path / "executed")), tmp_path / "model" / "pytorch_model.bin")
    result = CliRunner().invoke(
        app, ["segment", str(PHOTOS / "cat.jpg"), "--model", str(tmp_path / "model"), "--labels", "cat, sky"]
    )
    assert result.exit_code == 2 and result.output.count("\n") <= 2, result.output
    assert not (tmp_path / "executed").exists()


def huge_png(side):
    """A PNG of a few kilobytes that says it has side x side pixels."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * side))
        + chunk(b"IEND", b"")
    )


def test_a_decompression_bomb_is_refused():
    with pytest.raises(ValueError, match=r"cannot read the image given: .*decompression bomb"):
        load_photo(io.BytesIO(huge_png(60_000)))


def test_names_in_an_annotation_file_do_not_leave_its_folder(tmp_path):
    Image.new("RGB", (8, 6)).save(tmp_path / "secret.png")
    (tmp_path / "mine").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 6)).save(tmp_path / "mine" / f"{name}.png")
    names = ["../secret.png", str(tmp_path / "secret.png"), "a.png", "../../../a/b.png"]
    content = {
        "images": [{"id": i, "file_name": name, "width": 8, "height": 6} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "area": 4, "segmentation": [[0, 0, 4, 0, 4, 4]]}
            for i in range(len(names))
        ],
        "categories": [{"id": 1, "name": "dog"}],
    }
    (tmp_path / "mine" / "annotations.json").write_text(json.dumps(content))
    found = {sample for split in ("train", "val") for sample in FolderDataset(tmp_path / "mine", split).stems}
    assert found == {"a.png", "b.png"}


@pytest.mark.parametrize("source", ["/dev/zero", "/dev/tty", "no such file", "https://example.com/a.jpg"])
def test_an_archive_can_have_only_files_read(source):
    photo = TokenizedPhoto(source, bytes(32), 1, 1, 16, (1, 1), ())
    assert find_photo(photo) is None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_depends_on_a_clock_that_may_jump(path):
    text = path.read_text(encoding="utf-8")
    assert "time.time()" not in text and "datetime" not in text


def test_results_stay_in_the_output_folder(tmp_path, checkpoint, monkeypatch):
    monkeypatch.chdir(tmp_path)
    strange = tmp_path / "photos" / ".. ..%2f..%5c.jpg"
    strange.parent.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(strange)
    labels = "../../a, C:\\b, sky"
    options = ["--model", str(checkpoint), "--labels", labels, "--masks", "--cutouts", "--output", "out"]
    result = CliRunner().invoke(app, ["segment", str(strange), *options])
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "out"}
    assert list(strange.parent.iterdir()) == [strange]
