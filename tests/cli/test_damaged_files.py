"""What the fuzz tests found in checkpoints and exports, case by case: one line that names the value, exit code 2."""

import json
import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

from transformers_pat.cli.app import app


def refused(folder, tmp_path, *options):
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "photo.png")
    common = ["--labels", "sky, tree", "--output", str(tmp_path / "out"), "--model", str(folder)]
    result = CliRunner().invoke(app, ["segment", str(tmp_path / "photo.png"), *common, *options])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, (result.output, result.exception)
    return result.stderr


def change(path, *place, value):
    content = json.loads(path.read_text())
    owner = content
    for key in place[:-1]:
        owner = owner[key]
    owner[place[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("config.json", "max_refined_labels"), 0, "max_refined_labels must be at least 1"),
        (("config.json", "num_segmenter_heads"), 0, "num_segmenter_heads must be at least 1"),
        (("processor_config.json", "image_processor", "image_mean"), [0.5, 0.5], "mean must have 3 elements"),
        (("processor_config.json", "image_processor", "image_mean"), [0.5, None, 0.5], "no numbers"),
        (("processor_config.json", "image_processor", "size"), {"shortest_edge": 10**6}, "is the most"),
        (("tokenizer_config.json", "model_max_length"), [], "not supported"),
    ],
)
def test_a_checkpoint(checkpoint, tmp_path, place, value, message):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    change(copy / place[0], *place[1:], value=value)
    assert message in refused(copy, tmp_path)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_mean", [0.5, 0.5], "need three numbers"),
        ("image_mean", ["a", "b", "c"], "must be numbers"),
        ("background_embed", [0.0], "background_embed is not of the words' size"),
        ("size", {"shortest_edge": 10**6}, "is the most"),
        ("size", {"shortest_edge": "64"}, "whole numbers"),
    ],
)
def test_the_facts_of_an_export(exported, tmp_path, name, value, message):
    copy = shutil.copytree(exported, tmp_path / "copy")
    change(copy / "pat_onnx.json", name, value=value)
    assert message in refused(copy, tmp_path, "--runtime", "onnx")


@pytest.mark.parametrize("name", ["tokenizer.json", "image.onnx", "text.onnx"])
def test_other_files_of_an_export(exported, tmp_path, name):
    copy = shutil.copytree(exported, tmp_path / "copy")
    (copy / name).write_text("{}")
    assert f"{name} is missing or damaged" in refused(copy, tmp_path, "--runtime", "onnx")


def test_a_token_that_the_vocabulary_lacks(exported, tmp_path):
    copy = shutil.copytree(exported, tmp_path / "copy")
    change(copy / "tokenizer.json", "model", "vocab", value={"a": 0})
    assert "tokenizer.json is " in refused(copy, tmp_path, "--runtime", "onnx")
