"""The runtime without PyTorch: damaged exports, and photos, words and codes of any kind."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from transformers_pat.onnx import OnnxSegmenter

from .support import FUZZ, changed_json, damaged, one_line, run

SMALL = ["pat_onnx.json", "tokenizer.json"]
GRAPHS = ["image.onnx", "segment.onnx", "codes.onnx", "text.onnx"]


@pytest.fixture(scope="module")
def copy(exported, tmp_path_factory):
    copy = shutil.copytree(exported, tmp_path_factory.mktemp("copy") / "exported")
    Image.new("RGB", (40, 30), "blue").save(copy.parent / "photo.png")
    return copy


@pytest.fixture(scope="module")
def runtime(exported):
    return OnnxSegmenter(exported, num_threads=1)


def segment(exported, copy, name, content):
    """What the command says about an export of which one file is changed."""
    (copy / name).write_bytes(content)
    photo, output = copy.parent / "photo.png", copy.parent / "out"
    options = ["--labels", "sky, tree", "--background", "learned", "--runtime", "onnx", "--output", output]
    try:
        return run("segment", photo, "--model", copy, *options)
    finally:
        shutil.copy(exported / name, copy / name)


@FUZZ
@given(st.data())
@pytest.mark.parametrize("name", SMALL)
def test_fields_of_the_small_files(exported, copy, name, data):
    segment(exported, copy, name, changed_json(data, (exported / name).read_text()).encode())


@FUZZ
@given(st.data())
@pytest.mark.parametrize("name", SMALL)
def test_bytes_of_the_small_files(exported, copy, name, data):
    segment(exported, copy, name, data.draw(damaged((exported / name).read_bytes())))


@FUZZ
@given(st.data())
@pytest.mark.parametrize("name", GRAPHS)
def test_the_length_of_a_graph(exported, copy, name, data):
    content = (exported / name).read_bytes()
    segment(exported, copy, name, content[: data.draw(st.integers(0, len(content) - 1))])


@FUZZ
@given(st.tuples(st.integers(1, 70), st.integers(1, 70)), st.lists(st.text(max_size=30), max_size=6))
def test_photos_and_words(runtime, size, words):
    with one_line():
        found = runtime(Image.new("RGB", size), candidate_labels=words)
        masks = np.stack([np.asarray(one["mask"]) for one in found])
        assert masks.shape[1:] == size[::-1] and (masks.astype(int).sum(0) == 255).all()


@FUZZ
@given(
    st.lists(
        st.sampled_from([np.uint8, np.int8, np.uint16, np.int64, np.uint64, np.float32, np.bool_]).flatmap(
            lambda dtype: arrays(dtype, array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6))
        ),
        max_size=4,
    )
)
def test_codes(runtime, codes):
    class_embeds = runtime.get_class_embeds(["sky", "tree"])
    for use in (runtime.decode, lambda given: runtime.segment_codes(given, class_embeds)):
        with one_line():
            use(codes)


@FUZZ
@given(
    st.one_of(st.none(), st.text(max_size=9), st.floats(), st.integers(), st.lists(st.text(max_size=9), max_size=3))
)
def test_backgrounds(runtime, background):
    with one_line():
        found = runtime(Image.new("RGB", (32, 32)), candidate_labels=["sky", "tree"], background=background)
        assert {one["label"] for one in found} <= {"sky", "tree", "background"}


@FUZZ
@given(st.integers(-9, 200) | st.floats() | st.text(max_size=3))
def test_windows(runtime, window):
    with one_line():
        runtime(Image.new("RGB", (40, 90)), candidate_labels=["sky", "tree"], window_size=window)
