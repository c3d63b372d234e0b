"""What the commands share: finding photos, loading a checkpoint, and mistakes that end in one line."""

import glob
import importlib.util
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from ..prompts_pat import split_candidate_labels

console = Console()
errors = Console(stderr=True)

# Kinds of photos that Pillow reads with a plugin -> the plugin.
PLUGINS = {".heic": "pillow-heif", ".heif": "pillow-heif", ".jxl": "pillow-jxl-plugin"}

ModelName = Annotated[
    str,
    typer.Option("--model", metavar="NAME", help="Checkpoint: a folder, a Hub name, or pat-nano, which is built in."),
]


def read_names(inputs: list[str]) -> list[str]:
    """The inputs, with "-" replaced by the lines of standard input."""
    names = [name for name in inputs if name != "-"]
    return names + ([line.strip() for line in sys.stdin if line.strip()] if "-" in inputs else [])


def find_images(inputs: list[str], recursive: bool = False) -> tuple[list[Path], list[str]]:
    """The image files that the inputs name, each once, in order; and what can't be read of the inputs."""
    found: dict[Path, Path] = {}
    missing = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            files = files_in(path, recursive)
            matches = images_among(files)
            missing += unreadable_kinds(files)
        elif path.exists():
            matches = [path]
        else:
            matches = [match for match in map(Path, sorted(glob.glob(name, recursive=True))) if match.is_file()]
        if not matches:
            missing.append(f"no such image: {name}")
        for match in matches:
            found.setdefault(match.resolve(), match)
    return list(found.values()), missing


def files_in(folder: Path, recursive: bool = False) -> list[Path]:
    """The folder's files, with `recursive` also those of folders in it."""
    return sorted(path for path in (folder.rglob("*") if recursive else folder.iterdir()) if path.is_file())


def images_among(files: list[Path]) -> list[Path]:
    """The files that look like images by their ending."""
    from PIL import Image

    endings = Image.registered_extensions()
    return [path for path in files if path.suffix.lower() in endings]


def unreadable_kinds(files: list[Path]) -> list[str]:
    """A line if there are photos of a kind that needs a plugin of Pillow."""
    from PIL import Image

    endings = Image.registered_extensions()
    wanted = [path for path in files if path.suffix.lower() in PLUGINS and path.suffix.lower() not in endings]
    if not wanted:
        return []
    plugins = sorted({PLUGINS[path.suffix.lower()] for path in wanted})
    return [f"{len(wanted)} photos such as {wanted[0].name}: Pillow needs {' and '.join(plugins)} for them"]


def read_labels(given: list[str]) -> list[str]:
    """Labels from every --labels: comma-separated words, or a text file with a label per line."""
    labels = []
    for text in given:
        if text.startswith("@") or text.endswith(".txt"):
            path = Path(text.removeprefix("@"))
            try:
                text = ",".join(line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip())
            except (OSError, UnicodeDecodeError) as error:
                fail(f"--labels: can't read {path}: {error}")
        labels += split_candidate_labels(text)
    if not any(labels):
        fail('no labels: give some, for instance --labels "road, car, tree"')
    return labels


def require_archive_extra(engine: str = "local") -> None:
    """Raise `ValueError` if the extra `archive`, or `ray` for that engine, is not installed."""
    if importlib.util.find_spec("pyarrow") is None or importlib.util.find_spec("datasets") is None:
        raise ValueError('token archives need pyarrow: pip install "transformers_pat[archive]"')
    if engine == "ray" and importlib.util.find_spec("ray") is None:
        raise ValueError('--engine ray needs Ray Data: pip install "transformers_pat[ray]"')


def require_onnx_extra(*modules: str) -> None:
    """End with one line if one of these modules of the extra `onnx` is not installed."""
    if any(importlib.util.find_spec(name) is None for name in modules):
        fail('ONNX is not installed: pip install "transformers_pat[onnx]"')


def is_url(source: str) -> bool:
    """Whether a photo is not a file."""
    return source.startswith(("http://", "https://"))


def is_archive(name: str) -> bool:
    """Whether an input is an archive of tokens and not photos: a folder, or the URL of one, such as s3://..."""
    return Path(name, "archive.json").is_file() or ("://" in name and not is_url(name))


def load(make):
    """Call `make`, which loads a model; a user's mistake ends the command with one line and exit code 2."""
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # its retries would fill the screen where there is no network
    try:
        return make()
    except (OSError, ValueError) as error:
        fail(str(error))


@contextmanager
def interruptible(where: Callable[[], str]) -> Iterator[None]:
    """On Ctrl-C or SIGTERM, end the command with one line: `where()` it is, and how it is continued."""
    received = []

    def stop(number: int, _) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only that one may handle signals
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:  # here, because progress bars have gone by now
        print_line(errors, f"Interrupted: {where()}")
        raise typer.Exit(128 + received[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_folder(output: Path) -> None:
    """Make the folder of the results; one line and exit code 2 if that fails."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"can't make the folder {output}: {error.strerror}")


@contextmanager
def writing_to(output: Path) -> Iterator[None]:
    """End the command with one line and exit code 1 if something can't be written, such as on a full disk."""
    try:
        yield
    except OSError as error:
        fail(f"can't write to {output}: {error}", code=1)


def print_line(target: Console, text: str) -> None:
    """One line, whatever the width of the terminal."""
    target.print(" ".join(text.split()), soft_wrap=True, markup=False, highlight=False)


def fail(reason: str, code: int = 2) -> NoReturn:
    """End the command with one line on stderr."""
    print_line(errors, f"Error: {reason}")
    raise typer.Exit(code)
