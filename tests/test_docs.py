"""What the documents promise is there: links, files, commands, code."""

import ast
import importlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from recipes.pat_nano.card import render
from recipes.pat_nano.splits import MEASURED
from transformers_pat.cli.app import app
from transformers_pat.data.catalogue import PASCAL_VOC_20

from .support.documents import ROOT, anchors, links, python_blocks

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
CARD = ROOT / "src" / "transformers_pat" / "pat_nano" / "README.md"
DOCUMENTS = [
    *(ROOT / "README.md", CONTRIBUTING, ROOT / "CHANGELOG.md", ROOT / "examples" / "photos" / "CREDITS.md", CARD),
    *(ROOT / "recipes" / "pat_nano" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))),
]
PACKAGE = ROOT / "src" / "transformers_pat"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for target in links(document):
        place, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (document.parent / place).resolve() if place else document
        assert linked.exists(), f"{document.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{document.name} links to {target}"


def test_files_commands_and_make_targets_exist():
    assert not missing_names()


def missing_names() -> set[str]:
    """Files, commands and make targets that the documents name and that do not exist."""
    contributing = CONTRIBUTING.read_text(encoding="utf-8")
    folders = re.findall(r"^\| `([\w/]+/)` \|", contributing, flags=re.MULTILINE)
    files = re.findall(r"`((?:src/transformers_pat/)?[\w/]+\.py)`", contributing)
    assert len(folders) > 5 and len(files) > 15
    missing = {name for name in folders + files if not any((root / name).exists() for root in (ROOT, PACKAGE))}
    text = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    commands = set(re.findall(r"(?:^transformers-pat|transformers_pat\.cli) ([a-z-]+)", text, flags=re.MULTILINE))
    missing |= {f"transformers-pat {name}" for name in commands - set(typer.main.get_command(app).commands)}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^|`)make ([\w-]+)", text, flags=re.MULTILINE))
    existing = set(re.findall(r"^([\w-]+):", makefile, flags=re.MULTILINE))
    return missing | {f"make {name}" for name in targets - existing}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_imports_in_python_blocks_work(document):
    for _, code in python_blocks(document):
        imports = [line for line in ast.parse(code).body if isinstance(line, (ast.Import, ast.ImportFrom))]
        exec(compile(ast.Module(imports, type_ignores=[]), document.name, "exec"), {})


def test_worked_examples_of_contributing_run():
    namespace: dict = {"replace": replace, "PASCAL_VOC_20": PASCAL_VOC_20}
    for _, code in python_blocks(CONTRIBUTING):
        exec(compile(code, "CONTRIBUTING.md", "exec"), namespace)
    assert namespace["pat"].config.num_levels == len(namespace["pat"].codebooks) == 4
    assert namespace["model"].config.id2label == {0: "road", 1: "car", 2: "tree"}
    assert namespace["PASCAL_VOC_ANIMALS"].photo == PASCAL_VOC_20.photo


def test_the_site_builds_without_a_warning(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    (tmp_path / "src").symlink_to(ROOT / "src")
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    page = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("set_vocabulary", "segment_codes", "FolderDataset", "TokenArchive", "OnnxSegmenter"):
        assert name in page


PUBLIC = ("", ".archive", ".colors", ".data", ".evaluation", ".onnx", ".reconstruction", ".visualization")
SHAPE = re.compile(r"\([\w*./+ ]+,[\w*./+, ]*\)|\[`(forward|__call__)`\]")


def public_functions():
    """Functions and methods that users call, by name."""
    for place in PUBLIC:
        module = importlib.import_module(f"transformers_pat{place}")
        for name in getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")]):
            named = getattr(module, name)
            if not str(getattr(named, "__module__", "")).startswith("transformers_pat"):
                continue
            methods = vars(named).items() if inspect.isclass(named) else []
            for function_name, function in [(name, named), *((f"{name}.{key}", value) for key, value in methods)]:
                function = getattr(function, "__func__", function)
                if inspect.isfunction(function) and not function_name.rpartition(".")[2].startswith("_"):
                    yield function_name, function


def test_what_takes_or_returns_tensors_says_their_shapes():
    checked, silent = 0, []
    for name, function in public_functions():
        # A predictor is a function of tensors, not one.
        annotations = [str(value) for key, value in function.__annotations__.items() if key != "source"]
        if re.search(r"Tensor|ndarray", " ".join(annotations)):
            checked += 1
            if not SHAPE.search(inspect.getdoc(function) or ""):
                silent.append(name)
    assert checked > 30 and not silent


def test_the_embedded_checkpoint_has_the_card_that_its_results_make():
    assert CARD.read_text(encoding="utf-8") == render()


def test_the_numbers_of_the_readme_are_the_measured_ones():
    measured = json.loads((ROOT / "docs" / "results" / "pat_nano.json").read_text(encoding="utf-8"))["segmentation"]
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in ("PAT", "training-free baseline", "PAT, from codes alone"):
        assert ", ".join(f"{measured[name][data]['mean_iou']:.3f}" for data in MEASURED) in text, name
