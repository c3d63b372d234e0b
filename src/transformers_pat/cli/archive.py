"""The commands of token archives: `transformers-pat tokenize`, `query` and `verify`."""

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from ..prompts_pat import BACKGROUND
from .common import (
    ModelName,
    console,
    fail,
    find_images,
    interruptible,
    load,
    make_folder,
    print_line,
    read_labels,
    read_names,
    require_archive_extra,
    writing_to,
)

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from ..archive import Found, Searcher, TokenArchive

ArchivePath = Annotated[str, typer.Argument(metavar="ARCHIVE", help="Folder or URL of the archive.")]
EngineName = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="What does the work: this process, or Ray Data on one or many machines."),
]
WORKERS = "Threads; with --engine ray, processes."
SHEET_COLUMNS, SHEET_WIDTH = 4, 360


def tokenize(
    output: Annotated[str, typer.Option("--output", metavar="ARCHIVE", help="Folder or URL of the archive.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="IMAGE", help="Files, folders or globs; - reads a list from standard input."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Photos of a data set of `datasets`.", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of --dataset.")] = "train",
    image_column: Annotated[str, typer.Option(metavar="NAME", help="Column of --dataset.")] = "image",
    model: ModelName = "pat-nano",
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Photos at a time.")] = 8,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help=WORKERS)] = 2,
    photos_per_shard: Annotated[int, typer.Option(metavar="N", min=1, help="Photos of one Parquet file.")] = 1024,
    engine: EngineName = "local",
) -> None:
    """
    Turn photos into an archive of tokens, which is searched and decoded without them.

    The same command again goes on where it stopped; run several times at once, it shares the work. Photos that can't
    be read are listed in rejected-*.jsonl.
    """
    load(lambda: require_archive_extra(engine))
    if bool(images) == bool(dataset):
        fail("give either photos or --dataset")
    from ..archive.archive import TokenArchive
    from ..archive.sources import DatasetPhotos, read_file
    from ..archive.tokenizing import Tokenizer, describe, plan
    from ..archive.tokenizing import tokenize as run
    from ..loading import load_checkpoint
    from ..modeling_pat import PatModel

    missing: list[str] = []
    if dataset:
        read = load(lambda: DatasetPhotos(dataset, split, image_column))
        sources = read.sources
    else:
        read, (sources, missing) = read_file, list_photos(images or [])
    tokenizer, processor = load(lambda: load_checkpoint(PatModel, model))
    archive = load(lambda: TokenArchive.create(output, describe(tokenizer, model)))
    parts = plan(archive, sources, photos_per_shard)
    try:
        if engine == "ray":
            from ..archive.ray_engine import tokenize_with_ray

            tokenize_with_ray(archive, model, parts, batch_size, workers, read)
        else:
            with interruptible(lambda: f"{len(archive)} photos are in {output}; the same command goes on from there"):
                run(archive, Tokenizer(tokenizer, processor.image_processor, batch_size, workers, read), parts)
    except OSError as error:
        fail(f"can't write {output}: {error}; what is there is whole, and the same command goes on from it", code=1)
    report(archive, missing)


def list_photos(images: list[str]) -> tuple[list[str], list[str]]:
    """Paths of all photos that the command names, and what names none; exits with 2 if there are none."""
    names = read_names(images)
    found, missing = find_images(names)
    if not found:
        fail(f"no images found: {', '.join(names)}")
    return [path.as_posix() for path in found], missing


def report(archive: "TokenArchive", missing: list[str]) -> None:
    """Say what the archive holds; exit with 1 if some inputs are not in it."""
    photos, size = len(archive), sum(archive.filesystem.size(shard) for shard in archive.shards())
    lists = archive.filesystem.glob(archive.path_of("rejected-*.jsonl"))
    rejected = sum(archive.filesystem.cat_file(path).count(b"\n") for path in lists)
    each = f", {size / photos:.0f} bytes each" if photos else ""
    print_line(console, f"{archive.path} holds {photos} photos{each}")
    if rejected:
        print_line(console, f"{rejected} photos could not be read: {archive.path}/rejected-*.jsonl says why")
    for reason in missing:
        print_line(console, f"Skipped: {reason}")
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
        Path | None,
        typer.Option(metavar="DIR", help="Folder for results.json, results.csv and sheet.jpg.", show_default=False),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help=WORKERS)] = 2,
    engine: EngineName = "local",
) -> None:
    """
    Find photos of an archive that show something.

    All photos are ranked by tables of their codes, the best of them by exact masks. With --output, sheet.jpg shows
    them with their masks: the photo where it still is, what its codes decode to where it is not.
    """
    load(lambda: require_archive_extra(engine))
    from ..archive.archive import TokenArchive
    from ..archive.query import Query
    from ..archive.search import EXACT, Searcher
    from ..loading import load_checkpoint
    from ..modeling_pat import PatForSemanticSegmentation

    match: Literal["any", "all"] = "all" if all_of else "any"
    unwanted = read_labels(without) if without else []
    wanted = load(lambda: Query(words, match, unwanted, min_share, top))
    opened = load(lambda: TokenArchive(archive))
    segmenter, processor = load(lambda: load_checkpoint(PatForSemanticSegmentation, model))
    searcher = load(lambda: Searcher(opened, segmenter, processor, workers))
    if engine == "ray":
        from ..archive.ray_engine import rank_with_ray

        best = load(lambda: rank_with_ray(searcher, wanted, max(EXACT, top)))
        found = load(lambda: searcher.exact(best, wanted)[:top])
    else:
        found = load(lambda: searcher(wanted, progress=True))
    console.print(result_table(found, [*words, *unwanted]))
    if output:
        make_folder(output)
        sheet = draw_sheet(found, searcher, [*words, *unwanted]) if found else None
        with writing_to(output):
            write_results(found, [*words, *unwanted], output)
            if sheet:
                sheet.save(output / "sheet.jpg", quality=90)
        print_line(console, f"results in {output}")


def write_results(found: "list[Found]", words: list[str], output: Path) -> None:
    """results.json and results.csv: source, score and each word's share of every photo, best first."""
    facts = [{"source": one.photo.source, "score": one.score, "shares": one.shares} for one in found]
    (output / "results.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    with (output / "results.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["source", "score", *words])
        rows.writerows([one.photo.source, one.score, *(one.shares[word] for word in words)] for one in found)


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
        contact_sheet([(f"{rank}. {Path(one.photo.source).name}", [draw(one, searcher, words, text_embeds)])])
        for rank, one in enumerate(found, start=1)
    ]
    rows = []
    for start in range(0, len(pictures), SHEET_COLUMNS):
        part = pictures[start : start + SHEET_COLUMNS]
        rows.append((f"{', '.join(words)}: {start + 1} to {start + len(part)}", part))
    return contact_sheet(rows)


def draw(one: "Found", searcher: "Searcher", words: list[str], text_embeds: "torch.Tensor") -> "Image":
    """One photo with the masks of the words, from its codes."""
    import torch

    from ..archive.pictures import show_photo
    from ..postprocessing_pat import segment
    from ..visualization import overlay

    picture = show_photo(one.photo, searcher.model.pat, searcher.processor)
    size = (SHEET_WIDTH, round(SHEET_WIDTH * picture.height / picture.width))
    with torch.inference_mode():
        logits = searcher.segment(one.photo, text_embeds)[0]
        label_map, _ = segment(logits, (size[1], size[0]), with_scores=True)
    return overlay(picture.resize(size), label_map.clip(max=len(words)), [*words, BACKGROUND])


def verify(archive: ArchivePath) -> None:
    """Read every byte of an archive and say what is damaged; exits with 1 if something is."""
    load(require_archive_extra)
    from ..archive.archive import TokenArchive

    opened = load(lambda: TokenArchive(archive))
    problems = opened.verify()
    for problem in problems:
        print_line(console, problem)
    print_line(console, f"{len(opened.shards())} shards, {len(problems)} problems")
    if problems:
        raise typer.Exit(1)
