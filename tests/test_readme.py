"""Runs every Python block of the README, in order and in one namespace, as a reader would."""

from .support.documents import ROOT, python_blocks

NEEDS_HUB = "<!-- test: needs the Hub -->"


def test_python_blocks_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    namespace: dict = {}
    for before, code in python_blocks(ROOT / "README.md"):
        if before != NEEDS_HUB:
            exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["picture"].width >= namespace["image"].width
    assert namespace["label_map"].shape == (427, 640)
    assert namespace["pixels"].shape == namespace["coarse"].shape
    assert namespace["logits"].shape[:2] == (1, 2)


def test_the_first_page_of_the_documentation_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for _, code in python_blocks(ROOT / "docs" / "index.md"):
        exec(compile(code, "index.md", "exec"), {})
    assert "building" in capsys.readouterr().out
