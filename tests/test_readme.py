"""Runs every Python block of the README, in order and in one namespace, as a reader would."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NEEDS_HUB = "<!-- test: needs the Hub -->"


def python_blocks() -> list[tuple[str, str]]:
    """(line that precedes the block, code) of each Python block."""
    return re.findall(r"([^\n]*)\n```python\n(.*?)```", README, flags=re.DOTALL)


def test_python_blocks_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    namespace: dict = {}
    for before, code in python_blocks():
        compiled = compile(code, "README.md", "exec")
        if before != NEEDS_HUB:
            exec(compiled, namespace)
    assert namespace["picture"].width >= namespace["image"].width
    assert namespace["label_map"].shape == (427, 640)
    assert namespace["pixels"].shape == namespace["coarse"].shape


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)", README)
    assert len(targets) > 5
    missing = [target for target in targets if "://" not in target and not (ROOT / target).exists()]
    assert not missing


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
