"""The commands of token archives: `transformers-pat tokenize`, `query` and `verify`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from ..prompts_pat import BACKGROUND
from .common import ModelName, console, fail, find_images, load, make_folder, print_line, read_labels

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from ..archive.search import Found, Searcher

ArchivePath = Annotated[str, typer.Argument(metavar="ARCHIVE", help="Folder or URL of the archive.")]
SHEET_COLUMNS, SHEET_WIDTH = 4, 360


def require_extra() -> None:
    """End the command with one line if the extra `archive` is not installed."""
    try:
        import filelock  # noqa: F401
        import pyarrow  # noqa: F401
    except ImportError:
        fail('token archives need pyarrow and filelock: pip install "transformers_pat[archive]"')


def tokenize(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Files, folders or globs; - reads a list from standard input.")
    ],
    output: Annotated[Path, typer.Option("--output", metavar="ARCHIVE", help="Folder of the archive.")],
    model: ModelName = "pat-nano",
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Photos at a time.")] = 8,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Threads that read photos.")] = 2,
    photos_per_shard: Annotated[int, typer.Option(metavar="N", min=1, help="Photos of one Parquet file.")] = 1024,
) -> None:
    """
    Turn photos into an archive of tokens, which is searched and decoded without them.

    The same command again goes on where it stopped; run several times at once, it shares the work. Photos that can't
    be read are listed in rejected-*.jsonl.
    """
    require_extra()
    names = [name for name in images if name != "-"]
    if "-" in images:
        names += [line.strip() for line in sys.stdin if line.strip()]
    found, missing = find_images(names)
    if not found:
        fail(f"no images found: {', '.join(names)}")
    from ..archive.archive import TokenArchive
    from ..archive.tokenizing import Tokenizer, describe, plan
    from ..archive.tokenizing import tokenize as run
    from ..loading import load_checkpoint
    from ..modeling_pat import PatModel

    tokenizer_model, processor = load(lambda: load_checkpoint(PatModel, model))
    archive = load(lambda: TokenArchive.create(output, describe(tokenizer_model, model)))
    parts = plan(archive, [path.as_posix() for path in found], photos_per_shard)
    try:
        run(archive, Tokenizer(tokenizer_model, processor.image_processor, batch_size, workers), parts)
    except OSError as error:
        fail(f"can't write {output}: {error}; what is there is whole, and the same command goes on from it", code=1)
    report(archive, output, missing)


def report(archive, output: Path, missing: list[str]) -> None:
    """Say what the archive holds; exit with 1 if some inputs are not in it."""
    photos, size = len(archive), sum(archive.filesystem.size(shard) for shard in archive.shards())
    rejected = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in output.glob("rejected-*.jsonl"))
    each = f", {size / photos:.0f} bytes each" if photos else ""
    print_line(console, f"{output} holds {photos} photos{each}")
    if rejected:
        print_line(console, f"{rejected} photos could not be read: {output}/rejected-*.jsonl says why")
    for name in missing:
        print_line(console, f"Skipped: no such image: {name}")
    if rejected or missing:
        raise typer.Exit(1)


def query(
    archive: ArchivePath,
    words: Annotated[list[str], typer.Argument(metavar="WORD", help='What to look for: "road" "tree;bush".')],
    all_of: Annotated[bool, typer.Option("--all", help="Photos that show all of the words, not any of them.")] = False,
    without: Annotated[
        list[str] | None, typer.Option(metavar="WORDS", help="Photos that don't show these.", show_default=False)
    ] = None,
    min_share: Annotated[float, typer.Option(metavar="SHARE", help="Smallest part of a picture that counts.")] = 0.01,
    top: Annotated[int, typer.Option(metavar="N", min=1, help="Photos to return.")] = 20,
    model: ModelName = "pat-nano",
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for results.json and sheet.jpg.", show_default=False)
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Threads.")] = 2,
) -> None:
    """
    Find photos of an archive that show something.

    All photos are ranked by tables of their codes, the best of them by exact masks. With --output, sheet.jpg shows
    them with their masks: the photo where it still is, what its codes decode to where it is not.
    """
    require_extra()
    from ..archive.archive import TokenArchive
    from ..archive.query import Query
    from ..archive.search import Searcher
    from ..loading import load_checkpoint
    from ..modeling_pat import PatForSemanticSegmentation

    match: Literal["any", "all"] = "all" if all_of else "any"
    unwanted = read_labels(without) if without else []
    wanted = load(lambda: Query(words, match, unwanted, min_share, top))
    opened = load(lambda: TokenArchive(archive))
    segmenter, processor = load(lambda: load_checkpoint(PatForSemanticSegmentation, model))
    searcher = load(lambda: Searcher(opened, segmenter, processor, workers))
    found = load(lambda: searcher(wanted, progress=True))
    console.print(result_table(found, [*words, *unwanted]))
    if output:
        make_folder(output)
        facts = [{"source": one.photo.source, "score": one.score, "shares": one.shares} for one in found]
        (output / "results.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        if found:
            draw_sheet(found, searcher, [*words, *unwanted]).save(output / "sheet.jpg", quality=90)
        print_line(console, f"results in {output}")


def result_table(found: "list[Found]", words: list[str]) -> Table:
    """A row per photo, best first."""
    from ..visualization import format_share

    table = Table("", "Photo", "Score", *map(escape, words))
    for rank, one in enumerate(found, start=1):
        shares = [format_share(one.shares[word]) if one.shares[word] else "-" for word in words]
        table.add_row(str(rank), escape(one.photo.source), f"{one.score:.2f}", *shares)
    return table


def draw_sheet(found: "list[Found]", searcher: "Searcher", words: list[str]) -> "Image":
    """The photos with their masks, a few to a row."""
    from ..visualization import contact_sheet

    text_embeds = searcher.text_embeds(words)
    pictures = [
        (f"{rank}. {one.photo.source}", draw(one, searcher, words, text_embeds))
        for rank, one in enumerate(found, start=1)
    ]
    rows = []
    for start in range(0, len(pictures), SHEET_COLUMNS):
        part = pictures[start : start + SHEET_COLUMNS]
        rows.append(("   ".join(name for name, _ in part), [picture for _, picture in part]))
    return contact_sheet(rows)


def draw(one: "Found", searcher: "Searcher", words: list[str], text_embeds: "torch.Tensor") -> "Image":
    """One photo with the masks of the words, from its codes."""
    import torch

    from ..archive.pictures import decode_photo, find_photo
    from ..postprocessing_pat import segment
    from ..visualization import overlay

    picture = find_photo(one.photo)
    if picture is None:
        picture = decode_photo(one.photo, searcher.archive.info, searcher.model.pat, searcher.processor)
    size = (SHEET_WIDTH, round(SHEET_WIDTH * picture.height / picture.width))
    with torch.inference_mode():
        logits = searcher.segment(one.photo, text_embeds)[0]
        label_map, _ = segment(logits, (size[1], size[0]), with_scores=True)
    return overlay(picture.resize(size), label_map, [*words, BACKGROUND])


def verify(archive: ArchivePath) -> None:
    """Read every byte of an archive and say what is damaged; exits with 1 if something is."""
    require_extra()
    from ..archive.archive import TokenArchive

    opened = load(lambda: TokenArchive(archive))
    problems = opened.verify()
    for problem in problems:
        print_line(console, problem)
    print_line(console, f"{len(opened.shards())} shards, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)
