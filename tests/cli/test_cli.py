import http.server
import io
import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers.utils import logging
from typer.testing import CliRunner

from transformers_pat import PatForSemanticSegmentation, PatModel, PatProcessor, visualization
from transformers_pat.cli.app import app
from transformers_pat.cli.common import read_names
from transformers_pat.colors import label_colors

PROGRAM = (sys.executable, "-m", "transformers_pat.cli")
PHOTO = Path(__file__).parents[2] / "examples" / "photos" / "cat.jpg"


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch):
    """Runs the command in an empty folder, with a tiny random checkpoint unless another model is asked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run_command(command, *arguments):
        model = [] if "--model" in arguments else ["--model", str(checkpoint)]
        return CliRunner().invoke(app, [command, *map(str, arguments), *model])

    return run_command


def lines(text):
    return [line for line in text.splitlines() if line.strip()]


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def test_segment_writes_overlay_labels_and_json(run, checkpoint):
    result = run("segment", PHOTO, "--labels", "sky, tree;bush, cat", "--output", "out")
    assert result.exit_code == 0, result.output
    assert "1 of 1 photos done" in result.output and "Mean score" in result.output
    with Image.open("out/cat_labels.png") as image:
        label_map = np.asarray(image)
        assert image.mode == "P" and image.size == (451, 300)
    with Image.open("out/cat_overlay.png") as image:
        assert image.width == 451 and image.height > 300
    facts = read_json("out/cat.json")
    assert (facts["width"], facts["height"], facts["model"]) == (451, 300, str(checkpoint))
    assert [row["label"] for row in facts["labels"]] == ["sky", "tree;bush", "cat"]
    assert sum(row["share"] for row in facts["labels"]) == pytest.approx(1, abs=1e-5)
    for row in facts["labels"]:
        assert row["share"] == pytest.approx((label_map == row["id"]).mean(), abs=1e-5)
        assert row["mean_score"] is None or 0 < row["mean_score"] <= 1

    processor = PatProcessor.from_pretrained(checkpoint)
    model = PatForSemanticSegmentation.from_pretrained(checkpoint).eval()
    with Image.open(PHOTO) as photo:
        inputs = processor(images=[photo], text=["sky", "tree;bush", "cat"], return_tensors="pt")
    expected = processor.post_process_semantic_segmentation(model(**inputs), target_sizes=[(300, 451)])[0]
    assert (expected.numpy() == label_map).mean() > 0.999


def test_bad_files_are_reported_and_the_rest_is_done(run):
    photos = Path("photos")
    photos.mkdir()
    for name in ("a.jpg", "b.jpg"):
        shutil.copy(PHOTO, photos / name)
    Image.new("L", (30, 40), 99).save(photos / "a.png")  # same stem as a.jpg
    (photos / "empty.png").write_bytes(b"")
    (photos / "text.jpg").write_text("not a photo")
    (photos / "cut.jpg").write_bytes(PHOTO.read_bytes()[:5000])
    (photos / "notes.txt").write_text("no image by its name")
    (photos / "deeper").mkdir()
    shutil.copy(PHOTO, photos / "deeper" / "c.jpg")
    result = run("segment", photos, "absent.jpg", "--labels", "sky, cat", "--output", "out", "--batch-size", 4)
    assert result.exit_code == 1
    complaints = lines(result.stderr)
    assert len(complaints) == 4
    for name in ("empty.png", "text.jpg", "cut.jpg", "absent.jpg"):
        assert sum(name in line for line in complaints) == 1
    assert sorted(path.name for path in Path("out").glob("*.json")) == ["a-2.json", "a.json", "b.json"]
    assert {read_json("out/a.json")["image"], read_json("out/a-2.json")["image"]} == {
        str(photos / "a.jpg"),
        str(photos / "a.png"),
    }
    assert "3 of 7 photos done" in result.output


def test_globs_and_repeated_inputs(run):
    for name in ("one.jpg", "two.jpg", "three.png"):
        shutil.copy(PHOTO, name)
    result = run("segment", "*.jpg", "one.jpg", "--labels", "sky, cat", "--output", "out")
    assert result.exit_code == 0
    assert sorted(path.stem for path in Path("out").glob("*.json")) == ["one", "two"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--labels", ""], "no labels"),
        (["--labels", " , "], "no labels"),
        (["--labels", "road,,car"], "is empty"),
        (["--labels", "road, Road"], "given twice"),
        (["--labels", "sky," + "word " * 300], "shorten"),
        (["--labels", "road", "--background", "1.5"], "between 0 and 1"),
        (["--labels", "road", "--background", "0,5"], "neither a score such as 0.5 nor words"),
        (["--labels", "road", "--background", "road"], "given twice"),
        (["--labels", "road"], "'road' alone would get every pixel"),
        (["--labels", "@absent.txt"], "can't read absent.txt"),
        (["--labels", "absent.txt"], "can't read absent.txt"),
        (["--labels", "road, background", "--background", "sky"], "given twice"),
        (["--labels", "road, sky", "--templates", "vlid"], "unknown prompt templates"),
        (["--labels", "road, sky", "--window", "50"], "multiple of 32"),
        (["--labels", "road, sky", "--model", "no/such-model"], "no model"),
        ([], "--labels"),
    ],
)
def test_mistakes_end_with_one_line_and_write_nothing(run, arguments, complaint):
    result = run("segment", PHOTO, "--output", "out", *arguments)
    assert result.exit_code == 2, result.output
    (line,) = lines(result.stderr)
    assert complaint in line
    assert not Path("out").exists()


@pytest.mark.parametrize("prefix", ["", "@"])
def test_labels_from_files_and_several_options(run, prefix):
    Path("words.txt").write_text("\ufeffsky\n\ntree;bush\n", encoding="utf-8")
    result = run("segment", PHOTO, "--labels", f"{prefix}words.txt", "--labels", "cat, dog", "--output", "out")
    assert result.exit_code == 0, result.output
    assert [row["label"] for row in read_json("out/cat.json")["labels"]] == ["sky", "tree;bush", "cat", "dog"]


def test_labels_that_share_a_word_have_names_that_differ(run, monkeypatch):
    shown = []
    monkeypatch.setattr(visualization, "overlay", lambda photo, label_map, names: shown.append(names) or photo)
    result = run("segment", PHOTO, "--labels", "sky, sky ;heaven, tree;bush", "--output", "out")
    assert result.exit_code == 0 and shown == [["sky", "sky ;heaven", "tree"]]


@pytest.mark.parametrize("command", ["segment", "reconstruct"])
def test_nothing_found(run, command):
    Path("empty").mkdir()
    for name in ("empty", "*.jpg", "absent.jpg"):
        result = run(command, name)
        assert result.exit_code == 2
        assert len(lines(result.stderr)) == 1 and "no images found" in result.stderr


def test_other_models_are_refused(run, checkpoint):
    result = run("segment", PHOTO, "--labels", "sky, tree", "--model", checkpoint / "clip")
    assert result.exit_code == 2
    assert "not a PAT checkpoint" in result.stderr and len(lines(result.stderr)) == 1


def test_results_do_not_land_among_the_photos(run):
    Path("photos").mkdir()
    shutil.copy(PHOTO, "photos/cat.jpg")
    assert run("segment", "photos", "--labels", "sky", "--output", "photos").exit_code == 2
    shutil.copy(PHOTO, "photos/cat_overlay.png")
    before = Path("photos/cat_overlay.png").read_bytes()
    result = run("segment", "photos/cat.jpg", "photos/cat_overlay.png", "--labels", "sky, cat", "--output", "photos")
    assert result.exit_code == 0
    assert Path("photos/cat_overlay.png").read_bytes() == before
    assert Path("photos/cat-2_overlay.png").exists()


def test_background_and_window(run):
    result = run(
        "segment", PHOTO, "--labels", "sky, cat", "--background", "wall, floor", "--window", 64, "--output", "out"
    )
    assert result.exit_code == 0, result.output
    assert [row["label"] for row in read_json("out/cat.json")["labels"]] == ["sky", "cat", "background"]
    run("segment", PHOTO, "--labels", "cat", "--background", "learned", "--output", "alone")
    assert [row["label"] for row in read_json("alone/cat.json")["labels"]] == ["cat", "background"]
    result = run("segment", PHOTO, "--labels", "sky, cat", "--background", "0.99", "--output", "sure")
    assert result.exit_code == 0
    assert read_json("sure/cat.json")["labels"][2]["share"] > 0.9


def test_label_ids_above_255(run):
    labels = ", ".join(f"l{index}" for index in range(300))
    result = run("segment", PHOTO, "--labels", labels, "--templates", "none", "--output", "out")
    assert result.exit_code == 0, result.output
    with Image.open("out/cat_labels.png") as image:
        assert image.mode.startswith("I")
        ids = np.unique(np.asarray(image))
    shares = [row["share"] for row in read_json("out/cat.json")["labels"]]
    assert set(ids) == {index for index, share in enumerate(shares) if share > 0}


def test_baked_vocabulary(run, checkpoint, tmp_path):
    model = PatForSemanticSegmentation.from_pretrained(checkpoint)
    processor = PatProcessor.from_pretrained(checkpoint)
    model.set_vocabulary(["sky", "tree"], processor)
    model.save_pretrained(tmp_path / "baked")
    processor.save_pretrained(tmp_path / "baked")
    result = run("segment", PHOTO, "--model", tmp_path / "baked", "--output", "out")
    assert result.exit_code == 0, result.output
    assert [row["label"] for row in read_json("out/cat.json")["labels"]] == ["sky", "tree"]


def test_reconstruct(run, checkpoint):
    Path("bad.jpg").write_text("not a photo")
    result = run("reconstruct", PHOTO, "bad.jpg", "--output", "out")
    assert result.exit_code == 1 and len(lines(result.stderr)) == 1
    assert all(text in result.output for text in ("1 level", "3 levels", "PSNR", "Bits per pixel"))
    with Image.open("out/cat_reconstruction.png") as image:
        assert image.width > 128
    # 96 x 64 pixels: 3 x 2 coarse codes of 4 bits, then four and sixteen times as many.
    model = PatModel.from_pretrained(checkpoint)
    assert [model.config.codebook_sizes[level] for level in range(3)] == [16, 16, 16]
    assert f"{6 * 4 / (96 * 64):.3f}" in result.output and f"{(6 + 24 + 96) * 4 / (96 * 64):.3f}" in result.output


def test_folder_that_cannot_be_made(run):
    Path("taken").write_text("a file")
    result = run("segment", PHOTO, "--labels", "sky, tree", "--output", "taken/out")
    assert result.exit_code == 2 and len(lines(result.stderr)) == 1


@pytest.mark.parametrize(
    ("arguments", "text"), [(["--help"], "reconstruct"), (["segment", "--help"], "--labels"), (["--version"], "pat 0")]
)
def test_help_and_version(arguments, text):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0 and text in done.output


@pytest.mark.parametrize(
    ("command", "text"),
    [("train", "--max_steps"), ("evaluate", "--per_class"), ("check-data", "--split"), ("segment", "--labels")],
)
def test_commands_explain_their_options(command, text):
    done = subprocess.run([*PROGRAM, command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and f"transformers-pat {command}" in done.stdout and text in done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["segment", "absent.jpg", "--labels", "sky, tree"]])
def test_what_needs_no_model_loads_neither_torch_nor_transformers(arguments):
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('loaded', sorted({'torch', 'transformers'} & set(sys.modules))))\n"
        "from transformers_pat.cli.app import app\n"
        f"app({arguments!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "loaded []" and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_missing_extra_is_named_in_one_line(command, tmp_path):
    code = (
        "import sys\n"
        "sys.modules['accelerate'] = None  # as if it were not installed\n"
        "from transformers_pat.cli.app import app\n"
        "app(sys.argv[1:])"
    )
    train = ["--init", "pat-nano", "--train", "data:train", "--output_dir", str(tmp_path)]
    arguments = [command, *(train if command == "train" else ["--data", "data:val"])]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    (line,) = lines(done.stderr)
    assert line == f'error: {command} needs accelerate: pip install "transformers_pat[train]"'
    assert done.returncode == 1


def test_label_maps_have_the_overlays_colours_and_keep_the_ids(run):
    assert run("segment", PHOTO, "--labels", "sky, tree, cat").exit_code == 0
    facts = json.loads(Path("pat-output/cat.json").read_text())
    with Image.open("pat-output/cat_labels.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[:9] == label_colors(["sky", "tree", "cat"]).flatten().tolist()
        ids = np.asarray(image)
    assert [one["share"] for one in facts["labels"]] == pytest.approx(
        [(ids == id).mean() for id in range(3)], abs=1e-6
    )


def test_json_goes_to_standard_output_and_nothing_else(run):
    done = run("segment", PHOTO, "--labels", "sky, tree", "--json")
    assert json.loads(done.stdout) == json.loads(Path("pat-output/cat.json").read_text())
    assert run("segment", PHOTO, "--labels", "sky, tree", "--quiet").stdout == ""
    assert run("reconstruct", PHOTO, "--quiet").stdout == ""
    assert "photos done" in run("reconstruct", PHOTO).stdout


def test_masks_and_cutouts_of_each_label(run):
    done = run("segment", PHOTO, "--labels", "sky, a tree;bush, tree", "--masks", "--cutouts", "--background", "0.4")
    assert done.exit_code == 0
    ids, photo = np.asarray(Image.open("pat-output/cat_labels.png")), np.asarray(Image.open(PHOTO).convert("RGB"))
    names = ["0_sky", "1_a-tree-bush", "2_tree", "3_background"]
    found = [name for id, name in enumerate(names) if (ids == id).any()]
    assert sorted(path.name for path in Path("pat-output").glob("cat_mask_*")) == [
        f"cat_mask_{name}.png" for name in found
    ]
    for name in found:
        inside = ids == int(name[0])
        assert (np.asarray(Image.open(f"pat-output/cat_mask_{name}.png")) == 255 * inside).all()
        cutout = np.asarray(Image.open(f"pat-output/cat_cutout_{name}.png"))
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert (cutout[..., 3] == 255 * inside[box]).all()
        assert (cutout[..., :3][inside[box]] == photo[box][inside[box]]).all()


def test_annotations_of_all_photos_and_their_count(run):
    shutil.copy(PHOTO, "same.jpg")
    formats = ("coco", "coco-panoptic", "voc", "yolo")
    options = [argument for name in formats for argument in ("--annotations", name)]
    done = run("segment", PHOTO, "same.jpg", "--labels", "sky, tree;bush", "--masks", *options, "--output", "out")
    assert done.exit_code == 0 and "2 of 2 photos done" in done.output
    assert {name for name in formats if Path("out", name).is_dir()} == set(formats)
    content = read_json("out/coco/annotations/instances_default.json")
    assert [image["file_name"] for image in content["images"]] == ["cat.jpg", "same.jpg"]
    assert [category["name"] for category in content["categories"]] == ["sky", "tree"]
    assert run("segment", PHOTO, "--labels", "sky, tree", "--annotations", "kitti").exit_code == 2


def test_photos_that_need_a_plugin_are_named(run):
    Path("photos").mkdir()
    shutil.copy(PHOTO, "photos/one.jpg")
    for name in ("a.HEIC", "b.heic"):
        Path("photos", name).write_bytes(b"ftypheic")
    done = run("segment", "photos", "--labels", "sky, tree")
    assert done.exit_code == 1 and Path("pat-output/one.json").is_file()
    assert "2 photos such as" in done.output and "Pillow needs pillow-heif for them" in done.output


def test_photos_are_found_in_folders_of_folders_on_standard_input_and_by_url(run, tmp_path, monkeypatch):
    deep = tmp_path / "photos" / "deep"
    deep.mkdir(parents=True)
    shutil.copy(PHOTO, deep / "one.jpg")
    assert run("segment", "photos", "--labels", "sky, tree").exit_code == 2
    assert run("segment", "photos", "--labels", "sky, tree", "--recursive").exit_code == 0
    assert Path("pat-output/one.json").is_file()
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{PHOTO}\n\nphotos/deep/one.jpg\n"))
    assert read_names(["x.jpg", "-"]) == ["x.jpg", str(PHOTO), "photos/deep/one.jpg"]
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=deep)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        done = run(
            "segment", f"{address}/one.jpg?size=2", f"{address}/absent.jpg", "--labels", "sky, tree", "--output", "web"
        )
        server.shutdown()
    assert done.exit_code == 1 and "cannot read the image" in done.stderr
    assert json.loads(Path("web/one.json").read_text())["image"] == f"{address}/one.jpg?size=2"


def test_results_that_are_there_are_kept_if_asked(run):
    assert run("segment", PHOTO, "--labels", "sky, tree").exit_code == 0
    before = Path("pat-output/cat.json").stat().st_mtime_ns
    done = run("segment", PHOTO, "--labels", "sky, tree", "--no-overwrite")
    assert done.exit_code == 0 and "1 of 1 photos have results already" in done.stdout
    assert Path("pat-output/cat.json").stat().st_mtime_ns == before
    Path("pat-output/cat_overlay.png").unlink()
    assert run("segment", PHOTO, "--labels", "sky, tree", "--no-overwrite").exit_code == 0
    assert Path("pat-output/cat_overlay.png").is_file()


@pytest.mark.parametrize("command", [["segment", "--labels", "sky, tree"], ["reconstruct"]])
def test_an_unknown_device_ends_in_one_line(run, command):
    assert run(*command, PHOTO, "--device", "cpu").exit_code == 0
    done = run(*command, PHOTO, "--device", "gpu")
    (line,) = lines(done.stderr)
    assert done.exit_code == 2 and line.startswith("Error: --device gpu: ")


def test_export_names_its_extra_and_spares_other_folders(checkpoint, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    code = "from transformers_pat.cli.app import app; import sys; app(sys.argv[1:])"
    arguments = ["export", str(tmp_path), "--model", str(checkpoint)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and "choose a new folder" in lines(done.stderr)[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    hide = "import sys; sys.modules['onnxruntime'] = None; "  # as if it were not installed
    done = subprocess.run([sys.executable, "-c", hide + code, *arguments], capture_output=True, text=True)
    assert lines(done.stderr) == ['Error: ONNX is not installed: pip install "transformers_pat[onnx]"']


def test_segment_with_onnx_equals_torch_and_needs_neither_torch_nor_transformers(checkpoint, tmp_path):
    exported = tmp_path / "exported"
    code = "from transformers_pat.cli.app import app; import sys; app(sys.argv[1:])"
    program = [sys.executable, "-c", code]
    subprocess.run([*program, "export", str(exported), "--model", str(checkpoint)], check=True)
    options = ["--labels", "sky, tree", "--background", "learned", "--window", "64"]
    torch_options = ["segment", str(PHOTO), *options, "--model", str(checkpoint), "--output", str(tmp_path / "torch")]
    subprocess.run([*program, *torch_options], check=True)
    onnx_options = ["segment", str(PHOTO), *options, "--model", str(exported), "--output", str(tmp_path / "onnx")]
    hide = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; "
    subprocess.run([sys.executable, "-c", hide + code, *onnx_options, "--runtime", "onnx"], check=True)
    one, other = (np.asarray(Image.open(tmp_path / name / f"{PHOTO.stem}_labels.png")) for name in ("torch", "onnx"))
    assert (one == other).mean() > 0.999


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--labels", "sky, tree"], "no exported checkpoint"),
        ([], "needs --labels"),
        (["--labels", "sky, tree", "--device", "cuda"], "--device needs --runtime torch"),
        (["--labels", "sky"], "alone would get every pixel"),
    ],
)
def test_onnx_mistakes_end_in_one_line(run, options, reason):
    done = run("segment", PHOTO, *options, "--runtime", "onnx")
    assert done.exit_code == 2 and reason in done.stderr and len(lines(done.stderr)) == 1


def test_mistakes_of_train_and_evaluate_end_in_one_line(tmp_path):
    for arguments, complaint in (
        (["train", "--output_dir", tmp_path, "--train", "x"], "either --clip"),
        (["evaluate", "--data", tmp_path / "absent"], "no data folder"),
        (["check-data", "ade20k_15", tmp_path], "ade20k_150"),
    ):
        done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True)
        (line,) = lines(done.stderr)
        assert done.returncode == 1 and complaint in line


def test_progress_bars_are_afterwards_as_before(run):
    logging.enable_progress_bar()
    try:
        assert run("reconstruct", PHOTO).exit_code == 0
        assert logging.is_progress_bar_enabled()
    finally:
        logging.disable_progress_bar()
