"""The photos that a command works on, and where its results go."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .common import console, errors, fail, find_images, is_archive, load, print_line, require_archive_extra

if TYPE_CHECKING:
    from ..archive import TokenArchive, TokenizedPhoto
    from ..modeling_pat import PatModel
    from .photos import Photo


@dataclass(frozen=True)
class Job:
    """One photo, or its codes in an archive, and where its results go: `target` plus an ending."""

    source: Path
    target: Path
    stored: "TokenizedPhoto | None" = None

    def path(self, ending: str) -> Path:
        """Path of one result."""
        return self.target.with_name(self.target.name + ending)


@dataclass
class Jobs:
    """The photos of one command, and what went wrong with some of them."""

    jobs: list[Job]
    archives: "list[TokenArchive]"
    num_done: int = 0
    num_failed: int = 0

    def batches(self, size: int) -> Iterator[list[Job]]:
        """The jobs, `size` at a time, under a progress bar if there are several."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=len(self.jobs) < 2) as progress:
            task = progress.add_task("Photos", total=len(self.jobs))
            for start in range(0, len(self.jobs), size):
                batch = self.jobs[start : start + size]
                yield batch
                progress.advance(task, len(batch))

    def open(self, job: Job) -> "Photo | None":
        """The photo or its codes, or None, reported and counted, if it can't be read."""
        if job.stored is not None:
            return job.stored
        from ..image_io_pat import load_photo

        try:
            return load_photo(job.source)
        except ValueError as error:
            self.skip(str(error))
            return None

    def skip(self, reason: str) -> None:
        """Report and count a photo that can't be read."""
        print_line(errors, f"Skipped: {reason}")
        self.num_failed += 1

    def save(self, write, job: Job, *args) -> None:
        """Call `write(job, *args)`; a full disk or a forbidden folder ends the command with one line."""
        try:
            write(job, *args)
        except OSError as error:
            fail(f"can't write the results of {job.source.name}: {error}", code=1)
        self.num_done += 1

    def finish(self, output: Path) -> None:
        """Say where the results are; exit with 1 if some photos failed."""
        num_photos = self.num_done + self.num_failed
        print_line(console, f"{self.num_done} of {num_photos} photos done; results in {output}")
        if self.num_failed:
            raise typer.Exit(1)


def plan_jobs(inputs: list[str], output: Path, endings: tuple[str, ...]) -> Jobs:
    """
    Files, folders (their direct children) and globs as jobs, each with names of its own for its results.

    Exits with 2 if nothing is found or a folder of photos would fill with results.
    """
    if any(Path(name).is_dir() and Path(name).resolve() == output.resolve() for name in inputs):
        fail(f"{output} holds the photos: choose another folder with --output.")
    archives = open_archives(inputs)
    stored = [photo for archive in archives for photo in load(lambda archive=archive: list(archive))]
    found, missing = find_images([name for name in inputs if not is_archive(name)])
    if not found and not stored:
        fail(f"no images found: {', '.join(inputs)}")
    photos = [(path, None) for path in found] + [(Path(photo.source), photo) for photo in stored]
    sources = {path.resolve() for path, _ in photos}
    taken: set[str] = set()
    jobs = []
    for path, photo in photos:
        number, name = 1, path.stem
        while name.casefold() in taken or any((output / (name + end)).resolve() in sources for end in endings):
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name.casefold())
        jobs.append(Job(path, output / name, photo))
    planned = Jobs(jobs, archives)
    for name in missing:
        planned.skip(f"no such image: {name}")
    return planned


def open_archives(inputs: list[str]) -> "list[TokenArchive]":
    """The archives among the inputs."""
    names = [name for name in inputs if is_archive(name)]
    if not names:
        return []
    load(require_archive_extra)
    from ..archive import TokenArchive

    return [load(lambda name=name: TokenArchive(name)) for name in names]


def check_archives(jobs: Jobs, model: "PatModel", window: int | None = None) -> None:
    """Exit with 2 if codes are not the model's, or windows are wanted of codes."""
    if not jobs.archives:
        return
    from ..archive.tokenizing import describe

    if window is not None:
        fail("--window needs photos: an archive's codes have the size that was tokenised")
    info = describe(model, "the given checkpoint")
    for archive in jobs.archives:
        load(lambda archive=archive: archive.require(info))
