"""Runs the Python blocks of README and docs, in order and in one namespace, and checks the flags of their commands."""

import re
import shlex
import shutil
from pathlib import Path

from typer.testing import CliRunner

from transformers_pat.cli.app import app
from transformers_pat.training.lora import add_lora, save_with_lora

from .data.test_benchmarks import write_pascal_voc
from .support.documents import ROOT, command_lines, python_blocks

NEEDS_HUB = "<!-- test: needs the Hub -->"
PHOTO = ROOT / "examples" / "photos" / "china.jpg"


def run_blocks(document):
    """Run a document's Python blocks; returns the variables."""
    namespace: dict = {}
    for before, code in python_blocks(document):
        if before != NEEDS_HUB:
            exec(compile(code, document.name, "exec"), namespace)
    return namespace


def run_command(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def test_the_readme(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = run_blocks(ROOT / "README.md")
    assert found["picture"].width >= found["image"].width
    assert found["label_map"].shape == (427, 640)
    assert found["pixels"].shape == found["coarse"].shape
    assert found["logits"].shape[:2] == (1, 2)


def test_the_first_page(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    run_blocks(ROOT / "docs" / "index.md")
    assert "building" in capsys.readouterr().out


def test_archives(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    run_command("tokenize", PHOTO.parent, "--output", "archive")
    Path("places.csv").write_text(f"source,place\n{PHOTO},Beijing\n")
    found = run_blocks(ROOT / "docs" / "archive.md")
    assert len(found["archive"]) == len(list(PHOTO.parent.glob("*.jpg")))
    assert "Beijing" in capsys.readouterr().out


def test_onnx(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run_command("export", "exported", "--model", "pat-nano")
    for name in ("street.jpg", "large.jpg"):
        shutil.copy(PHOTO, name)
    found = run_blocks(ROOT / "docs" / "onnx.md")
    assert found["picture"].size[0] > 0 and found["logits"].shape[:2] == (1, 2)


def test_benchmarks(monkeypatch, tmp_path):
    write_pascal_voc(tmp_path / "data")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    found = run_blocks(ROOT / "docs" / "benchmarks.md")
    assert found["labels"].shape == found["image"].size[::-1]


def test_training(monkeypatch, tmp_path, make_segmenter):
    monkeypatch.chdir(tmp_path)
    model = make_segmenter()
    add_lora(model, rank=2)
    save_with_lora(model, model.state_dict(), "runs/lora")
    assert any(".lora_" in name for name, _ in run_blocks(ROOT / "docs" / "training.md")["model"].named_parameters())


def test_every_document_with_python_is_run_above():
    text = Path(__file__).read_text(encoding="utf-8")
    for document in (ROOT / "docs").glob("*.md"):
        # The blocks of evaluation.md are imports alone, which test_docs.py runs.
        assert not python_blocks(document) or document.name == "evaluation.md" or f'"{document.name}"' in text


def test_commands_have_the_flags_that_the_documents_give_them():
    checked, wrong = 0, []
    runner = CliRunner(env={"COLUMNS": "200"})
    helps: dict[str, str] = {}
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for line in command_lines(document):
            words = shlex.split(line, comments=True)
            place = next(
                (i for i, word in enumerate(words) if word in ("transformers-pat", "transformers_pat.cli")), None
            )
            if place is None or place + 1 == len(words):
                continue
            command, *rest = words[place + 1 :]
            if command not in helps:
                helps[command] = runner.invoke(app, [command, "--help"]).output
            for flag in (word for word in rest if word.startswith("--")):
                checked += 1
                if not re.search(rf"{flag}\b", helps[command]):
                    wrong.append(f"{document.name}: {command} {flag}")
    assert checked > 40 and not wrong
