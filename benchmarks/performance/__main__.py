"""Measure how fast everything is, and write docs/results/performance.json, docs/performance.md and its picture.

make bench                                       all of it, twenty minutes on two cores; nothing else should run
python -m benchmarks.performance --only memory   measure some parts again; the rows of the others stay
"""

import json
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer
from rich.console import Console

from transformers_pat.evaluation import report

from . import document
from .timing import Row

MODULES = ("segmentation", "codes", "memory", "others", "peers")
RESULTS = document.ROOT / "docs" / "results" / "performance.json"
console = Console(width=160)


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(MODULES)}; repeatable.")] = None,
    quick: Annotated[bool, typer.Option(help="Tiny cases, to see that everything runs.")] = False,
    threads: int = 2,
    output: Annotated[Path | None, typer.Option(help="One part's rows as JSON.", hidden=True)] = None,
) -> None:
    if output is not None:  # in a process of its own, so that no part inherits another's memory
        torch.set_num_threads(threads)
        rows = []
        for one in import_module(f".{(only or [''])[0]}", __package__).measure(quick):
            console.print(
                f"{one.part}: {one.what}: {one.ratio:.3g} {one.unit} {one.against} {one.aim}", highlight=False
            )
            rows.append(asdict(one))
        output.write_text(json.dumps(rows))
        return
    measured = {module: run_module(module, quick, threads) for module in only or MODULES}
    if quick:
        return
    torch.set_num_threads(threads)
    described = report.describe_machine(torch.device("cpu"))
    facts = ", ".join(f"{name} {value}" for part in described.values() for name, value in part.items())
    if RESULTS.is_file() and only:
        before = json.loads(RESULTS.read_text())
        if before["facts"] != facts:
            raise SystemExit(f"not written: {RESULTS.name} is of another machine or version ({before['facts']})")
        measured = {**{name: [Row(**one) for one in rows] for name, rows in before["rows"].items()}, **measured}
    record = {"facts": facts, "rows": {name: [asdict(one) for one in rows] for name, rows in measured.items()}}
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    rows = [one for part in measured.values() for one in part]
    document.draw(rows, document.PICTURE)
    document.write(rows, facts, document.ROOT / "docs" / "performance.md")


def run_module(module: str, quick: bool, threads: int) -> list[Row]:
    with TemporaryDirectory() as folder:
        output = Path(folder, "rows.json")
        command = [
            sys.executable,
            "-m",
            __package__,
            "--only",
            module,
            "--threads",
            str(threads),
            "--output",
            str(output),
        ]
        subprocess.run([*command, *(["--quick"] if quick else [])], check=True)
        return [Row(**fields) for fields in json.loads(output.read_text())]


if __name__ == "__main__":
    typer.run(main)
