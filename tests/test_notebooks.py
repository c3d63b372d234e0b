"""Every notebook runs from top to bottom, offline."""

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def run(name):
    """The outputs of a notebook's cells as one text, and the number of pictures among them."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        assert not cell.get("outputs"), "notebooks are kept without outputs"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": NOTEBOOKS}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = sum("image/png" in output.get("data", {}) for output in outputs)
    texts = [output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs]
    return "\n".join(texts), pictures


@pytest.fixture(autouse=True)
def command_on_path(monkeypatch):
    """Cells call `transformers-pat`, which is installed beside this Python."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def test_quick_start():
    text, pictures = run("1_quick_start")
    assert "'building'" in text and pictures == 2


def test_words_and_background():
    text, pictures = run("2_words_and_background")
    assert "['sky', 'building', 'tree']" in text and pictures == 5


def test_fine_tune_gains():
    text, pictures = run("3_fine_tune")
    assert "30 photos with masks" in text and pictures == 1
    rows = (line.replace("│", " ").split() for line in text.splitlines())
    before, after = next(map(float, row[1:]) for row in rows if row[:1] == ["mean"])
    assert after > before + 0.2


def test_tokens_and_archives():
    text, pictures = run("4_tokens_and_archives")
    assert "holds 2 photos" in text and "cat.jpg" in text and pictures == 3


def test_from_clip_to_the_hub(clip_folder, monkeypatch):
    monkeypatch.setenv("CLIP", str(clip_folder))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    text, _ = run("5_from_clip_to_the_hub")
    assert "parameters are trained" in text and text.strip().endswith("True")
