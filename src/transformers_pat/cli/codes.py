"""`transformers-pat codes`: pictures of what a checkpoint's codes stand for."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import (
    ModelName,
    console,
    fail,
    load,
    make_folder,
    print_line,
    read_labels,
    require_archive_extra,
    writing_to,
)
from .jobs import check_archives, plan_jobs

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..archive import TokenizedPhoto

MAP_SIDE = 480
MOST_PHOTOS = 500


def codes(
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGE", help="Files, folders, globs, archives: 500 photos at most."),
    ],
    labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORDS|FILE.txt", help="Words to compare with; COCO-Stuff's 171 by default.", show_default=False
        ),
    ] = None,
    model: ModelName = "pat-nano",
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder of the pictures.")] = Path(
        "pat-output"
    ),
    count: Annotated[int, typer.Option(metavar="N", min=1, max=30, help="Codes per level.")] = 12,
) -> None:
    """
    See what the codes of each level stand for. A code of a finer level adds to those of the coarser ones.

    Writes for each level level_N.jpg, the codes that occur most with the words nearest to them and cells that have
    them, and level_N_where.jpg, where they occur in the four photos that have most of them.
    """
    load(require_archive_extra)
    jobs = plan_jobs(images, output, ("_where.jpg",))
    from ..archive.codes import frequent_codes, most_of, tokenize_one
    from ..archive.context import common_words
    from ..archive.tables import CodeTables
    from ..archive.tokenizing import describe
    from ..loading import load_checkpoint
    from ..modeling_pat import PatForSemanticSegmentation
    from ..visualization import contact_sheet, format_share

    words = read_labels(labels) if labels else common_words()
    segmenter, processor = load(lambda: load_checkpoint(PatForSemanticSegmentation, model))
    check_archives(jobs, segmenter.pat)
    make_folder(output)
    photos: list[TokenizedPhoto] = []
    pictures: list[Image] = []
    for (job,) in jobs.batches(1):
        if len(photos) < MOST_PHOTOS and (photo := jobs.open(job)) is not None:
            stored, picture = tokenize_one(photo, segmenter.pat, processor)
            photos.append(stored)
            pictures.append(picture)
            jobs.num_done += 1
    if not photos:
        fail("no photo could be read", code=1)
    text_embeds = load(lambda: segmenter.get_text_embeds(words, processor)).detach()
    tables = CodeTables.fit(segmenter.pat, describe(segmenter.pat, model), photos)
    for level in range(segmenter.config.num_levels):
        shown = frequent_codes(level, photos, pictures, tables, text_embeds, words, count)
        rows = [
            (f"code {code.index}: {format_share(code.share)} of the cells; {', '.join(code.words)}", code.patches)
            for code in shown
        ]
        maps = [draw_map(photos[one], pictures[one], level, shown) for one in most_of(shown, level, photos)]
        with writing_to(output):
            contact_sheet(rows).save(output / f"level_{level + 1}.jpg", quality=90)
            contact_sheet([(f"level {level + 1}", maps)]).save(output / f"level_{level + 1}_where.jpg", quality=90)
        print_line(console, f"level {level + 1}: {output}/level_{level + 1}.jpg and level_{level + 1}_where.jpg")
    jobs.finish(output)


def draw_map(photo: "TokenizedPhoto", picture: "Image", level: int, shown: list) -> "Image":
    """A photo with the cells of the shown codes coloured."""
    from PIL import ImageOps

    from ..archive.codes import code_map
    from ..visualization import overlay

    picture = ImageOps.contain(picture, (MAP_SIDE, MAP_SIDE))
    labels = [*(f"code {code.index}" for code in shown), "other codes"]
    return overlay(picture, code_map(photo.codes[level], shown, (picture.height, picture.width)), labels)
