"""What a visitor of the app can send: files, words, places, backgrounds, searches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from transformers_pat.app.engine import Engine
from transformers_pat.app.viewer import show_code, show_segmentation

from ..support.tiny import photo
from .support import FUZZ, damaged, one_line, run

WORDS = st.text(max_size=40) | st.lists(st.text(max_size=12), max_size=120).map(", ".join)
PLACE = st.floats(0, 1) | st.sampled_from([0.0, 1.0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory, checkpoint):
    folder = tmp_path_factory.mktemp("app")
    (folder / "photos").mkdir()
    photo().save(folder / "photos" / "photo.png")
    done = run("tokenize", folder / "photos", "--model", checkpoint, "--output", folder / "tokens", "--workers", "1")
    assert done.exit_code == 0
    return folder


@pytest.fixture(scope="module")
def engine(folder, checkpoint):
    return Engine(str(checkpoint), archive=folder / "tokens")


@FUZZ
@given(st.data())
@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "tiff", "bmp"])
def test_bytes_of_a_photo(engine, folder, ending, data):
    path = folder / f"sent.{ending}"
    Image.new("RGB", (12, 16), "green").save(path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    with one_line():
        opened = engine.open(path)
        assert opened.mode == "RGB"
        assert opened.width * opened.height <= 2_000_000 or min(opened.size) == 1


@FUZZ
@given(st.tuples(st.integers(1, 60), st.integers(1, 60)), WORDS, st.none() | st.just("learned") | WORDS)
def test_photos_and_words(engine, size, words, background):
    with one_line():
        if background not in (None, "learned"):
            background = engine.read_words(background)
        labels = engine.read_words(words)
        sent = Image.new("RGB", size, "green")
        found = engine.segment(sent, labels, background)
        assert found.label_map.shape == size[::-1]
        assert show_segmentation("title", found)["labels"]
        assert engine.baseline(sent, labels).label_map.shape == size[::-1]


@FUZZ
@given(st.tuples(st.integers(1, 60), st.integers(1, 60)), st.integers(0, 2), PLACE, PLACE)
def test_places(engine, size, level, x, y):
    sent = Image.new("RGB", size, "green")
    code = engine.code_at(sent, level, x, y)
    # A photo smaller than its cells does not show them all.
    assert code.cells.shape == size[::-1] and (code.cells.any() or min(size) < 32)
    assert show_code(sent, code)["labels"]


@FUZZ
@given(WORDS, st.integers(1, 30))
def test_searches(engine, words, top):
    with one_line():
        assert len(engine.search(engine.read_words(words), top)) <= top
