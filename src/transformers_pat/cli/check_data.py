"""`transformers-pat check-data`: what a folder of photos and masks holds, or what a benchmark's download lacks."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ..data.base import BadSampleError
from ..data.benchmark import Benchmark, BenchmarkDataset, index_ids
from ..data.catalogue import BENCHMARKS, find_benchmark
from ..data.inspection import FolderReport, inspect_folder
from ..visualization import format_share
from .common import print_line

SAMPLES = 10
SHOWN = 5

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(no_args_is_help=True)
def check(
    name: Annotated[
        str | None,
        typer.Argument(help="Folder of photos and masks, or a benchmark, see --list.", show_default=False),
    ] = None,
    root: Annotated[
        Path | None, typer.Argument(help="Folder that the benchmark was unpacked in.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="train or val.")] = "val",
    every: Annotated[bool, typer.Option("--all", help="Open every photo and mask instead of a few.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List the benchmarks.")] = False,
) -> None:
    """
    Check photos and masks of your own, or the download of a benchmark, before training on them.

    Nothing is downloaded, converted or written. Ends with exit code 0 and "ready", or with 1.

        transformers-pat check-data ../mine

        transformers-pat check-data --list

        transformers-pat check-data ade20k_150 ../data

        transformers-pat check-data coco_stuff_171 ../coco --split train --all
    """
    if show_list:
        Console().print(list_benchmarks())
        return
    if name is not None and root is None and Path(name).is_dir():
        return check_folder(name)
    if name is None or root is None:
        raise ValueError(f"no such folder: {name}; for a benchmark, give also the folder it was unpacked in")
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


def check_folder(folder: str) -> None:
    """Say what a folder of photos and masks holds; exits with 1 if a sample can't be used."""
    console = Console()
    report = inspect_folder(folder, track=show_progress(console))
    show_report(console, report)
    if report.problems:
        raise typer.Exit(1)
    say(f"ready: transformers-pat train --data {folder}")


def show_progress(console: Console) -> Callable[[Iterable], Iterable]:
    """A progress bar for [`inspect_folder`]."""
    return lambda samples: track(samples, "opening photos and masks", console=console, transient=True)


def show_report(console: Console, report: FolderReport) -> None:
    """Print the shares of the classes, the splits, and what is wrong."""
    table = Table(
        "class", title=f"{report.form}, {sum(report.splits.values())} photos with masks", title_justify="left"
    )
    for name in ("share of pixels", "photos"):
        table.add_column(name, justify="right")
    total = sum(count.pixels for count in report.classes) + report.unlabelled
    for count in report.classes:
        table.add_row(count.name, format_share(count.pixels / total) if count.pixels else "-", str(count.photos))
    if report.unlabelled:
        table.add_row("(not labelled)", format_share(report.unlabelled / total), "")
    console.print(table)
    splits = ", ".join(f"{number} {split}" for split, number in report.splits.items())
    print_line(console, f"splits{' (made automatically)' if report.automatic else ''}: {splits}")
    for title, items in (
        ("photos without a mask", report.without_mask),
        ("masks without a photo", report.without_photo),
        ("classes that no mask has", [count.name for count in report.classes if not count.photos]),
    ):
        if items:
            more = f", and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
            print_line(console, f"{len(items)} {title}: {', '.join(items[:SHOWN])}{more}")
    for problem in report.problems[:SHOWN]:
        print_line(console, f"can't be used: {problem}")
    if len(report.problems) > SHOWN:
        print_line(console, f"and {len(report.problems) - SHOWN} more that can't be used")


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
