"""`transformers-pat app`: the page that `transformers_pat.app` makes."""

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from .common import ModelName, fail, files_in, images_among, load


def serve_app(
    model: ModelName = "pat-nano",
    archive: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Archive of tokens to search.", show_default=False)
    ] = None,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help='"0.0.0.0" lets other machines in.')] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(metavar="N", help="Port; the first free one from 7860 on by default.", show_default=False),
    ] = None,
    max_megabytes: Annotated[int, typer.Option(metavar="N", min=1, help="Largest upload.")] = 20,
    max_megapixels: Annotated[int, typer.Option(metavar="N", min=1, help="Largest photo.")] = 25,
    photos: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Photos to offer as examples.", show_default=False)
    ] = None,
) -> None:
    """
    Open a page to try words, tokens and an archive in the browser.

    Photos stay on this machine.
    """
    if importlib.util.find_spec("gradio") is None:
        fail('the app needs gradio: pip install "transformers_pat[app]"')
    from ..app import Engine, build_page, launch

    page = build_page(load(lambda: Engine(model, archive, max_megapixels)), read_examples(photos))
    load(lambda: launch(page, host, port, max_megabytes))


def read_examples(folder: Path | None) -> list[tuple[str, str]]:
    """Photos of a folder, each with words to try."""
    if folder is None:
        return []
    return [(str(path), "sky, building, tree, water, person, cat") for path in images_among(files_in(folder))[:6]]
