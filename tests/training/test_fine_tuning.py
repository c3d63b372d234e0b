"""From a folder of photos and masks to a checkpoint of one's own: `transformers-pat train --data FOLDER`."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from transformers_pat import PatForSemanticSegmentation
from transformers_pat.cli.app import app
from transformers_pat.cli.arguments import run_script
from transformers_pat.cli.train import main
from transformers_pat.training.config import TrainConfig
from transformers_pat.training.loop import show_results

from ..support.data import stripes, write_set

QUICK = ["--crop_size", "32", "--batch_size", "2", "--warmup_steps", "1", "--workers", "0", "--samples", "1"]


@pytest.fixture
def folder(tmp_path):
    """Five photos, without splits."""
    masks = [stripes(0, 1, size=(64, 48)), *[stripes(0, 2, 255, size=(64, 48))] * 4]
    folder = write_set(tmp_path / "mine", {0: "background", 1: "roof", 2: "lawn;grass"}, masks)
    shutil.rmtree(folder / "splits")
    return folder


def test_own_photos_become_a_checkpoint_that_segments_without_being_told_the_words(
    folder, checkpoint, tmp_path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    main(["--data", str(folder), "--init", str(checkpoint), "--max_steps", "2", *QUICK])
    printed = capfd.readouterr().out
    assert "splits (made automatically): 4 train, 1 val" in printed
    assert "(not labelled)" in printed and "IoU before" in printed and "IoU, step 2" in printed
    assert printed.splitlines()[-1] == (
        "To use it: transformers-pat segment PHOTO --model runs/mine --background learned"
    )
    model = PatForSemanticSegmentation.from_pretrained("runs/mine")
    assert model.config.id2label == {0: "roof", 1: "lawn"}
    assert {path.name for path in (tmp_path / "runs" / "mine" / "samples").iterdir()} == {
        "step_0000000",
        "step_0000002",
    }
    photo = str(folder / "images" / "p0.jpg")
    result = CliRunner().invoke(app, ["segment", photo, "--model", "runs/mine", "--background", "learned"])
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "pat-output" / "p0.json").read_text())
    assert [region["label"] for region in facts["labels"]] == ["roof", "lawn", "background"]
    # What it finds, corrected by hand in a labelling tool, can be trained on again.
    CliRunner().invoke(app, ["segment", str(folder / "images"), "--model", "runs/mine", "--annotations", "coco"])
    result = CliRunner().invoke(app, ["check-data", "pat-output/coco"])
    assert result.exit_code == 0 and "COCO, 5 photos with masks" in result.output


def test_flags_win_over_the_defaults_for_own_photos(folder, checkpoint, tmp_path, capfd):
    output = tmp_path / "elsewhere"
    own = ["--max_steps=1", "--output_dir", str(output), "--learning_rate", "1e-5"]
    main(["--data", str(folder), "--init", str(checkpoint), *QUICK, *own])
    assert "IoU, step 1" in capfd.readouterr().out
    assert (output / "config.json").is_file()


def test_a_training_without_gain_says_so(folder, checkpoint, capsys):
    config = TrainConfig(output_dir="run", init=str(checkpoint), train=["mine:train"], samples=0)
    before, after = ({"mine val": {"roof": value, "mean": value}} for value in (0.5, 0.4))
    show_results(config, {0: before, 9: after}, [])
    assert "No gain on mine val: try a lower --learning_rate" in capsys.readouterr().out
    show_results(config, {0: after, 9: before}, [])
    assert "No gain" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "classes.txt").unlink(), "no classes.txt (lines 'id: name') and no labelmap.txt"),
        (lambda folder: shutil.rmtree(folder / "masks"), "has no masks/"),
        (lambda folder: shutil.rmtree(folder), "no data folder"),
        (
            lambda folder: [
                Image.fromarray(np.full((48, 64), 255, dtype=np.uint8)).save(path)
                for path in (folder / "masks").iterdir()
            ],
            "no pixel of",
        ),
    ],
)
def test_a_folder_that_can_not_be_trained_on_ends_in_one_line(folder, checkpoint, damage, message):
    damage(folder)
    with pytest.raises(SystemExit) as ended:
        run_script(main, ["--data", str(folder), "--init", str(checkpoint), "--max_steps", "1"])
    assert message in str(ended.value.code) and "\n" not in str(ended.value.code)


def test_check_data_lists_what_can_not_be_used(folder):
    Image.fromarray(np.full((48, 64), 9, dtype=np.uint8)).save(folder / "masks" / "p3.png")
    (folder / "masks" / "p4.png").unlink()
    result = CliRunner().invoke(app, ["check-data", str(folder)])
    assert result.exit_code == 1
    assert "can't be used: mask of 'p3.jpg'" in result.output and "1 photos without a mask: p4.jpg" in result.output
    Image.fromarray(stripes(0, 1, size=(64, 48))).save(folder / "masks" / "p3.png")
    result = CliRunner().invoke(app, ["check-data", str(folder)])
    assert result.exit_code == 0 and f"ready: transformers-pat train --data {folder}" in result.output.replace(
        "\n", ""
    )
