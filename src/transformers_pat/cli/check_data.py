"""`transformers-pat check-data`: check the download of a benchmark; say what is missing and where to get it."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..data.base import BadSampleError
from ..data.benchmark import Benchmark, BenchmarkDataset, index_ids
from ..data.catalogue import BENCHMARKS, find_benchmark

SAMPLES = 10
SHOWN = 5

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(no_args_is_help=True)
def check(
    name: Annotated[str | None, typer.Argument(help="Benchmark, see --list.", show_default=False)] = None,
    root: Annotated[Path | None, typer.Argument(help="Folder it was unpacked in.", show_default=False)] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="train or val.")] = "val",
    every: Annotated[bool, typer.Option("--all", help="Open every photo and mask instead of a few.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the benchmarks.")] = False,
) -> None:
    """
    Check the download of a benchmark, and say what is missing and where to get it.

    Nothing is downloaded, converted or written. Ends with exit code 0 and "ready", or with 1.

        transformers-pat check-data --list

        transformers-pat check-data ade20k_150 ../data

        transformers-pat check-data coco_stuff_171 ../coco --split train --all
    """
    if show_list:
        Console().print(list_benchmarks())
        return
    if name is None or root is None:
        raise ValueError("expected NAME and ROOT, or --list")
    benchmark = find_benchmark(name)
    problems = find_missing_parts(benchmark, root, split)
    if not problems:
        dataset = BenchmarkDataset(benchmark, root, split, strict=False)
        problems = find_missing_files(dataset) + find_bad_samples(dataset, every)
    for problem in problems:
        say(problem)
    if problems:
        raise typer.Exit(1)
    say("ready")


def list_benchmarks() -> Table:
    """The benchmarks with their number of classes and photos."""
    table = Table("name", "benchmark", "classes", "train photos", "val photos")
    for benchmark in BENCHMARKS.values():
        names, _ = index_ids(benchmark)
        photos = (f"{count:,}" for _, count in benchmark.splits.values())
        table.add_row(benchmark.name, benchmark.title, str(len(names)), *photos)
    return table


def find_missing_parts(benchmark: Benchmark, root: Path, split: str) -> list[str]:
    """One line for each part of the download that is missing, with the page to get it from."""
    folder = benchmark.folder(split)
    parts = [(root / part.path.format(split=folder), part) for part in benchmark.downloads]
    return [
        f"missing: {path}, from {part.file.format(split=folder)} of {part.where}"
        for path, part in parts
        if not path.is_dir()
    ]


def find_missing_files(dataset: BenchmarkDataset) -> list[str]:
    """The first missing files, and a line if the number of photos is not the benchmark's."""
    expected = dataset.benchmark.splits[dataset.split][1]
    say(f"{dataset.benchmark.title} {dataset.split}: {len(dataset):,} of {expected:,} photos with masks")
    problems = shorten(dataset.missing)
    if len(dataset) != expected:
        problems.append(f"incomplete: {len(dataset):,} of {expected:,} photos with masks; unpack the download again")
    return problems


def find_bad_samples(dataset: BenchmarkDataset, every: bool) -> list[str]:
    """Photos and masks that can't be read or don't fit each other."""
    step = 1 if every else max(1, len(dataset) // SAMPLES)
    problems = []
    for index in track(range(0, len(dataset), step), description="opening photos and masks"):
        try:
            dataset[index]
        except BadSampleError as error:
            problems.append(str(error))
    return shorten(problems)


def shorten(problems: list[str]) -> list[str]:
    """The first problems, and a line with the number of the others."""
    more = len(problems) - SHOWN
    return problems[:SHOWN] + ([f"... and {more:,} more like that"] if more > 0 else [])


def say(line: str) -> None:
    """One line, whatever the width of the terminal."""
    Console().print(line, soft_wrap=True, markup=False, highlight=False)


def main(argv: list[str] | None = None) -> None:
    """Run the command with these arguments or the process's; a user's mistake ends in one line."""
    try:
        app(argv, prog_name="transformers-pat check-data")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {str(error).splitlines()[0]}")
