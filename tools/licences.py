"""Writes docs/licences.md: what the package and its extras install, directly, and under which licence."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "licences.md"
# What users install; the others are for development.
EXTRAS = ("train", "archive", "ray", "app", "onnx", "formats", "lora")


def licence(name: str) -> str:
    """The licence that a package states."""
    try:
        fields = metadata(name)
    except PackageNotFoundError:
        return "not installed here"
    classified = [c.rpartition(" :: ")[2] for c in fields.get_all("Classifier") or [] if c.startswith("License ::")]
    stated = (
        fields["License-Expression"] or ", ".join(classified) or (fields["License"] or "not stated").splitlines()[0]
    )
    return stated.removesuffix(" License")


def main() -> None:
    """Run the command."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = []
    for extra, wanted in [("", project["dependencies"]), *((e, project["optional-dependencies"][e]) for e in EXTRAS)]:
        for requirement in wanted:
            name = re.split(r"[\[<>=;~ ]", requirement)[0]
            if name != project["name"] and name not in {row[0] for row in rows}:
                rows.append((name, extra or "always", licence(name)))
    table = "\n".join(f"| {name} | {extra} | {terms} |" for name, extra, terms in rows)
    text = f"""# Licences of dependencies

What `pip install transformers_pat` and its extras ask for, and the licence that each states. They bring dependencies
of their own.

| package | extra | licence |
| --- | --- | --- |
{table}

`python tools/licences.py` wrote this file.
"""
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
