"""Arguments of commands and example scripts: a dataclass, a config file, and mistakes that end in one line."""

import argparse
import difflib
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the lines of the description, and names the defaults that say something."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)


def parse_arguments(
    config_class: type, description: str | None, argv: list[str] | None = None, prog: str | None = None
) -> Any:
    """
    Flags over the values of a `--config` file (YAML) over the defaults.

    Args:
        config_class: Dataclass whose fields are the flags.
        description: For `--help`.
        argv: The arguments; those of the process by default.
        prog: Name of the command in messages; the script's by default.

    Returns:
        An instance of `config_class`. Ends the program with one line on a typo, a missing value or file.
    """
    parser = HfArgumentParser(
        config_class,
        prog=prog,
        usage="%(prog)s [--config FILE.yaml] [--NAME VALUE ...]",  # all flags would bury an error message below them
        description=description,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", help="YAML file with any of these values; flags win over it.")
    argv = sys.argv[1:] if argv is None else argv
    config_finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_finder.add_argument("--config")
    if path := config_finder.parse_known_args(argv)[0].config:
        argv = [*_config_to_flags(parser, path, config_class), *argv]
    *parsed, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    if unknown:
        parser.error(f"unknown argument {unknown[0]}{_suggest(unknown[0].lstrip('-'), config_class)}")
    return parsed[0]


def run_script(main: Callable[..., None], *args: Any) -> None:
    """Call `main`; what the user can put right ends the program with one line."""
    try:
        main(*args)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {str(error).splitlines()[0]}")
    except KeyboardInterrupt:
        sys.exit("interrupted")


def require_accelerate(command: str) -> None:
    """Raise `ValueError` if the extra `train` is not installed."""
    if importlib.util.find_spec("accelerate") is None:
        raise ValueError(f'{command} needs accelerate: pip install "transformers_pat[train]"')


def _config_to_flags(parser: HfArgumentParser, path: str, config_class: type) -> list[str]:
    """A config file's values as flags, to be put before the real ones, so that those win."""
    if not Path(path).is_file():
        parser.error(f"--config: no file {path!r}")
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        parser.error(f"--config: {path} is no YAML: {' '.join(str(error).split())}")
    flags = []
    for name, value in (values or {}).items():
        if name not in {field.name for field in fields(config_class)}:
            parser.error(f"--config: {path} has an unknown value {name!r}{_suggest(name, config_class)}")
        if value in (None, []):  # no value is what a flag that is not given means
            continue
        items = value if isinstance(value, list) else [value]
        flags += [f"--{name}", *(json.dumps(item) if isinstance(item, dict) else str(item) for item in items)]
    return flags


def _suggest(name: str, config_class: type) -> str:
    close = difflib.get_close_matches(name, [field.name for field in fields(config_class)], n=1)
    return f": did you mean {close[0]!r}?" if close else " (--help lists all)"
