"""Command lines of any kind: 0, or a message and no stack trace."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from .support import FUZZ, run

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
NUMBER = st.sampled_from(["0", "-1", "1", "16", "32", "1e9", "nan", "inf", "0.5", "x", "", "9" * 30, "⅓", "１６"])
SEGMENT = {
    "--labels": TEXT,
    "--background": TEXT | NUMBER | st.just("learned"),
    "--templates": TEXT | st.sampled_from(["none", "simple", "a {}", "{} {}", "{x}", "{"]),
    "--window": NUMBER,
    "--batch-size": NUMBER,
    "--device": st.sampled_from(["cpu", "cuda:99", "", "gpu", "meta", "cpu:-1"]),
    "--annotations": st.sampled_from(["coco", "voc", "yolo", "coco-panoptic", "none"]),
}
QUERY = {"--without": TEXT, "--min-share": NUMBER, "--top": NUMBER, "--workers": NUMBER}
FLAGS = ["--masks", "--cutouts", "--json", "--quiet", "--no-overwrite", "--recursive"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, checkpoint):
    folder = tmp_path_factory.mktemp("commands")
    (folder / "photos").mkdir()
    Image.new("RGB", (40, 30), "blue").save(folder / "photos" / "photo.png")
    done = run("tokenize", folder / "photos", "--model", checkpoint, "--output", folder / "tokens", "--workers", "1")
    assert done.exit_code == 0
    return folder


def drawn(data, options: dict) -> list[str]:
    names = data.draw(st.lists(st.sampled_from(sorted(options)), unique=True, max_size=4))
    return [part for name in names for part in (name, data.draw(options[name]))]


@FUZZ
@given(st.data())
def test_segment(place, checkpoint, data):
    options = drawn(data, SEGMENT)
    assume("meta" not in options)  # torch's device without memory
    if "--labels" not in options:
        options += ["--labels", "sky, tree"]
    flags = data.draw(st.lists(st.sampled_from(FLAGS), unique=True))
    run("segment", place / "photos", "--model", checkpoint, "--output", place / "out", *options, *flags)


@FUZZ
@given(st.data())
def test_query(place, checkpoint, data):
    words = data.draw(st.lists(TEXT.filter(lambda text: not text.startswith("-")), max_size=3))
    flags = data.draw(st.sampled_from([[], ["--all"]]))
    run("query", place / "tokens", *words, "--model", checkpoint, *drawn(data, QUERY), *flags)


@FUZZ
@given(st.lists(TEXT, max_size=4))
@pytest.mark.parametrize("command", ["segment", "reconstruct", "tokenize", "query", "verify", "codes", "export"])
def test_any_arguments(place, monkeypatch, command, arguments):
    monkeypatch.chdir(place)
    assume("-" not in arguments)  # standard input
    run(command, *arguments, "--no-such-option")
    if command in ("query", "verify"):
        run(command, "no-such-archive", *(text for text in arguments if not text.startswith("-")))
