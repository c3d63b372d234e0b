"""Damaged files of every kind: read as they were meant, or refused by one line that names the file."""

import json
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from transformers_pat.data import FolderDataset
from transformers_pat.data.base import read_classes
from transformers_pat.data.inspection import inspect_folder
from transformers_pat.data.layouts import read_color_table

from ..support.data import stripes, write_set
from .support import FUZZ, JSON, changed_json, damaged, one_line, run


def segment(folder, photo, output):
    """What the command says about a checkpoint."""
    return run("segment", photo, "--model", folder, "--labels", "sky, tree", "--output", output)


@pytest.fixture(scope="module")
def copy(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "checkpoint"
    shutil.copytree(checkpoint, folder)
    Image.new("RGB", (40, 30), "blue").save(folder.parent / "photo.png")
    return folder


@contextmanager
def restored(checkpoint, copy):
    """Gives the whole checkpoint back afterwards."""
    try:
        yield
    finally:
        shutil.copytree(checkpoint, copy, dirs_exist_ok=True)


@pytest.fixture
def photo(copy):
    return copy.parent / "photo.png"


@FUZZ
@given(st.data())
def test_fields_of_the_configuration(checkpoint, copy, photo, data):
    config = json.loads((checkpoint / "config.json").read_text())
    place = data.draw(st.sampled_from([config, config["vision_config"], config["text_config"]]))
    name = data.draw(st.sampled_from(sorted(place)))
    place[name] = data.draw(JSON)
    with restored(checkpoint, copy):
        (copy / "config.json").write_text(json.dumps(config))
        segment(copy, photo, copy.parent / "out")


@FUZZ
@given(st.data())
@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_fields_of_the_small_files(checkpoint, copy, photo, name, data):
    with restored(checkpoint, copy):
        (copy / name).write_text(changed_json(data, (checkpoint / name).read_text()))
        segment(copy, photo, copy.parent / "out")


@FUZZ
@given(st.data())
@pytest.mark.parametrize("name", ["config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"])
def test_bytes_of_the_small_files(checkpoint, copy, photo, name, data):
    with restored(checkpoint, copy):
        (copy / name).write_bytes(data.draw(damaged((checkpoint / name).read_bytes())))
        segment(copy, photo, copy.parent / "out")


@FUZZ
@given(st.data())
def test_the_header_and_the_length_of_the_weights(checkpoint, copy, photo, data):
    content = (checkpoint / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    kept = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    with restored(checkpoint, copy):
        (copy / "model.safetensors").write_bytes((data.draw(damaged(content[:header])) + content[header:])[:kept])
        segment(copy, photo, copy.parent / "out")


@FUZZ
@given(st.data())
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "tiff", "bmp"])
def test_bytes_of_a_photo(checkpoint, tmp_path_factory, ending, data):
    folder = tmp_path_factory.mktemp("photo")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(
        folder / f"a.{ending}"
    )
    (folder / f"a.{ending}").write_bytes(data.draw(damaged((folder / f"a.{ending}").read_bytes())))
    assert segment(checkpoint, folder / f"a.{ending}", folder / "out").exit_code in (0, 1)


@FUZZ
@given(
    st.text(max_size=60)
    | st.lists(st.tuples(st.integers(-3, 300), st.text(max_size=5))).map(
        lambda rows: "\n".join(f"{number}: {name}" for number, name in rows)
    )
)
def test_class_lists(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("classes") / "classes.txt"
    path.write_text(text, encoding="utf-8", newline="")
    with one_line():
        assert all(name.strip() == name for name in read_classes(path).values())
    with one_line():
        read_color_table(path)


@FUZZ
@given(st.data())
def test_bytes_of_masks(tmp_path_factory, data):
    folder = write_set(tmp_path_factory.mktemp("masks") / "set", {0: "sky", 1: "car"}, [stripes(0, 1)] * 2)
    mask = folder / "masks" / "p0.png"
    mask.write_bytes(data.draw(damaged(mask.read_bytes())))
    with one_line():
        report = inspect_folder(folder)
        assert all("\n" not in problem for problem in report.problems)


@FUZZ
@given(
    st.sampled_from(["L", "P", "I;16", "I", "1", "F", "RGB", "LA"]),
    st.lists(st.sampled_from([0, 1, 300, 65535]) | st.integers(0, 2**17), min_size=12, max_size=12),
)
def test_masks_of_any_type(tmp_path_factory, mode, ids):
    """The ids that are in the file, or a problem that names it: never other ids."""
    folder = write_set(
        tmp_path_factory.mktemp("modes") / "set", {0: "sky", 1: "car", 300: "tree"}, [stripes(0, 1)] * 2
    )
    photo = Image.open(folder / "images" / "p0.jpg")
    values = np.resize(ids, (photo.height, photo.width))
    wide = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    if mode not in wide:
        values = values % 2
    mask = Image.fromarray(values.astype(wide.get(mode, np.uint8 if mode != "1" else bool)))
    if mode in ("P", "RGB", "LA"):
        mask = mask.convert(mode)
    mask.save(folder / "masks" / "p0.tiff")
    (folder / "masks" / "p0.tiff").rename(folder / "masks" / "p0.png")
    with one_line():
        labels = FolderDataset(folder, "train", ignore_index=65535, strict=True)[0].labels
        ids = np.array([0, 1, 300, 65535])
        assert (ids[np.where(labels == 65535, 3, labels)] == values).all()


@FUZZ
@given(JSON, JSON, JSON)
def test_annotations(tmp_path_factory, images, annotations, categories):
    folder = tmp_path_factory.mktemp("coco")
    Image.new("RGB", (8, 6)).save(folder / "a.png")
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    with one_line():
        inspect_folder(folder)


@FUZZ
@given(st.data())
def test_fields_of_annotations(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("coco")
    for name in ("a", "b"):
        Image.new("RGB", (8, 6)).save(folder / f"{name}.png")
    content = {
        "images": [{"id": i, "file_name": f"{name}.png", "width": 8, "height": 6} for i, name in enumerate("ab")],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "area": 4, "segmentation": [[0, 0, 4, 0, 4, 4]]}
            for i in range(2)
        ],
        "categories": [{"id": 1, "name": "dog"}],
    }
    place = data.draw(st.sampled_from([*content["images"], *content["annotations"], *content["categories"]]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON)
    (folder / "annotations.json").write_text(json.dumps(content))
    with one_line():
        inspect_folder(folder)
