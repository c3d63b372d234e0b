"""The photos that a command works on, and where its results go."""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .common import (
    console,
    errors,
    fail,
    find_images,
    interruptible,
    is_archive,
    is_url,
    load,
    print_line,
    read_names,
    require_archive_extra,
)

if TYPE_CHECKING:
    from ..archive import TokenArchive, TokenizedPhoto
    from ..modeling_pat import PatModel
    from .photos import Photo


@dataclass(frozen=True)
class Job:
    """One photo (a path or URL), or its codes in an archive, and where its results go: `target` plus an ending."""

    source: str
    target: Path
    stored: "TokenizedPhoto | None" = None

    @property
    def name(self) -> str:
        """What to call the photo: the last part of its path or URL."""
        return name_of(self.source)

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

    @contextmanager
    def resumable_batches(self, size: int) -> Iterator[Iterator[list[Job]]]:
        """[`batches`]; Ctrl-C and SIGTERM end the command with a line that says how far it came and how to go on."""
        rest = f"of {len(self.jobs)} photos done; the same command with --no-overwrite does the others"
        with interruptible(lambda: f"{self.num_done} {rest}"), closing(self.batches(size)) as batches:
            yield batches

    def batches(self, size: int) -> Generator[list[Job]]:
        """The jobs, `size` at a time, under a progress bar, which for a single one only shows that work goes on."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("Photos", total=len(self.jobs) if len(self.jobs) > 1 else None)
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
        """
        Call `write(job, *args)`; a full disk or a forbidden folder ends the command with one line.

        Files get their names when all of them are whole, STEM.json last, so that --no-overwrite takes no part for a
        result.
        """
        folder = job.target.parent
        try:
            with TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
                write(replace(job, target=Path(partial, job.target.name)), *args)
                for path in sorted(Path(partial).iterdir(), key=lambda path: path.suffix == ".json"):
                    path.replace(folder / path.name)
        except OSError as error:
            fail(f"can't write the results of {job.name}: {error}", code=1)
        self.num_done += 1

    def finish(self, output: Path) -> None:
        """Say where the results are; exit with 1 if some photos failed."""
        num_photos = self.num_done + self.num_failed
        print_line(console, f"{self.num_done} of {num_photos} photos done; results in {output}")
        if self.num_failed:
            raise typer.Exit(1)


def plan_jobs(
    inputs: list[str], output: Path, endings: tuple[str, ...], recursive: bool = False, overwrite: bool = True
) -> Jobs:
    """
    Files, folders, globs, URLs and archives as jobs, each with names of its own for its results.

    Args:
        inputs: What the user named.
        output: Folder of the results.
        endings: Of the files that are written for a photo.
        recursive: Whether folders in folders count.
        overwrite: Whether photos whose results are all there are done again.

    Exits with 2 if nothing is found or a folder of photos would fill with results.
    """
    inputs = read_names(inputs)
    if any(Path(name).is_dir() and Path(name).resolve() == output.resolve() for name in inputs):
        fail(f"{output} holds the photos: choose another folder with --output.")
    archives = open_archives(inputs)
    stored = [photo for archive in archives for photo in load(lambda archive=archive: list(archive))]
    urls = [name for name in dict.fromkeys(inputs) if is_url(name)]
    found, missing = find_images([name for name in inputs if not is_url(name) and not is_archive(name)], recursive)
    if not found and not stored and not urls:
        fail(f"no images found: {', '.join(inputs)}")
    photos = [(str(source), None) for source in (*found, *urls)] + [(photo.source, photo) for photo in stored]
    sources = {path.resolve() for path in found} | {Path(photo.source).resolve() for photo in stored}
    taken: set[str] = set()
    jobs = []
    for source, photo in photos:
        stem = PurePosixPath(name_of(source)).stem
        number, name = 1, stem
        while name.casefold() in taken or any((output / (name + end)).resolve() in sources for end in endings):
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        jobs.append(Job(source, output / name, photo))
    wanted = [job for job in jobs if overwrite or not all(job.path(ending).exists() for ending in endings)]
    planned = Jobs(wanted, archives)
    if len(wanted) < len(jobs):
        print_line(console, f"{len(jobs) - len(wanted)} of {len(jobs)} photos have results already")
    for reason in missing:
        planned.skip(reason)
    return planned


def name_of(source: str) -> str:
    """The last part of a path or URL."""
    return (PurePosixPath(urlsplit(source).path) if is_url(source) else Path(source)).name or "photo"


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
