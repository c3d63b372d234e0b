"""The command line. This file has `segment` and `reconstruct` and lists all other commands."""

import importlib.util
import json
import math
import re
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.table import Table

from .. import __version__
from .archive import query, tokenize, verify
from .codes import codes
from .common import (
    ModelName,
    console,
    fail,
    find_images,
    load,
    make_folder,
    read_labels,
    require_onnx_extra,
    writing_to,
)
from .jobs import Job, check_archives, plan_jobs
from .serve_app import serve_app

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from ..data.annotation_writers import AnnotationWriter
    from ..reconstruction import Reconstruction
    from .photos import Photo, Region

# torch and transformers are imported inside the commands: --help should not wait for them.

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE",
        help="Files, folders, globs, URLs, archives of tokens; - reads such names from standard input.",
        show_default=False,
    ),
]
OutputFolder = Annotated[Path, typer.Option("--output", metavar="DIR", help="Where the results go.")]
Recursive = Annotated[bool, typer.Option("--recursive", help="Look for photos in folders of folders, too.")]
Overwrite = Annotated[bool, typer.Option("--overwrite/--no-overwrite", help="Do photos again that have results.")]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help='"cpu", "cuda", "cuda:1", "mps" ...; the CPU by default.')
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]


class AnnotationFormat(StrEnum):
    """Formats of labelling tools; typer takes no list of literals."""

    COCO = "coco"
    COCO_PANOPTIC = "coco-panoptic"
    VOC = "voc"
    YOLO = "yolo"


def show_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        console.print(f"transformers-pat {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Segment photos by any words, look at what a tokenizer keeps of them, train and evaluate."""


@app.command()
def segment(
    images: Images,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORDS|FILE.txt",
            help='What to look for: "road, car, tree;bush" (; separates synonyms), or a file with a label per line.',
            show_default=False,
        ),
    ] = None,
    model: ModelName = "pat-nano",
    output: OutputFolder = Path("pat-output"),
    background: Annotated[
        str | None,
        typer.Option(
            metavar="learned|SCORE|WORDS",
            help='What becomes "background": pixels that fit none of the labels ("learned"), pixels below a score '
            '(0 to 1), or pixels of these words ("wall, floor").',
        ),
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(metavar="NAME", help='Prompts: none, simple, vild, imagenet, or your own ("a photo of a {}").'),
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Photos at a time.")] = 1,
    window: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Keep the photo's resolution and slide a window of N pixels over it."),
    ] = None,
    runtime: Annotated[
        Literal["torch", "onnx"],
        typer.Option(help='"onnx": --model is a folder that `export` wrote; PyTorch is not needed.'),
    ] = "torch",
    masks: Annotated[
        bool, typer.Option("--masks", help="Also write each label's mask, STEM_mask_ID_LABEL.png.")
    ] = False,
    cutouts: Annotated[
        bool, typer.Option("--cutouts", help="Also write each label's part of the photo, STEM_cutout_ID_LABEL.png.")
    ] = False,
    annotations: Annotated[
        list[AnnotationFormat] | None,
        typer.Option(help="Also write a data set for a labelling tool, in a folder of this name in --output."),
    ] = None,
    device: Device = None,
    recursive: Recursive = False,
    overwrite: Overwrite = True,
    quiet: Quiet = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what STEM.json holds, a line per photo, and nothing else.")
    ] = False,
) -> None:
    """
    Find the words of --labels in photos.

    Writes for each photo STEM_overlay.png (masks and legend), STEM_labels.png (the id of each pixel's label, in the
    order of --labels) and STEM.json (each label's share of the picture and mean score).
    """
    console.quiet = quiet or as_json
    jobs = plan_jobs(images, output, ("_overlay.png", "_labels.png", ".json"), recursive, overwrite)
    words = read_labels(labels) if labels else None
    if annotations and not overwrite:
        fail("--annotations describes all photos of a run: leave out --no-overwrite")
    from .photos import onnx_segmenter, torch_segmenter

    if runtime == "onnx":
        require_onnx_extra("onnxruntime", "tokenizers")
        if jobs.archives:
            fail("archives need --runtime torch")
        if device is not None:
            fail("--device needs --runtime torch")
        segmenter = load(lambda: onnx_segmenter(model, words, background, templates, window))
    else:
        segmenter = load(lambda: torch_segmenter(model, words, background, templates, window, device))
        check_archives(jobs, segmenter.pipeline.model.pat, window)
    make_folder(output)
    writers = open_writers(annotations or [], output, segmenter.labels)
    with jobs.resumable_batches(batch_size) as batches:
        for batch in batches:
            photos = [(job, photo) for job in batch if (photo := jobs.open(job)) is not None]
            if not photos:
                continue
            results = segmenter([photo for _, photo in photos])
            for (job, photo), (label_map, regions) in zip(photos, results, strict=True):
                picture, facts = segmenter.picture(photo), segmentation_facts(job, photo, regions, model)
                jobs.save(write_results, job, picture, label_map, regions, facts, masks, cutouts, writers)
                console.print(segmentation_table(job, regions))
                if as_json:
                    typer.echo(json.dumps(facts, ensure_ascii=False))
    with writing_to(output):
        for writer in writers:
            writer.close()
    jobs.finish(output)


@app.command()
def reconstruct(
    images: Images,
    model: ModelName = "pat-nano",
    output: OutputFolder = Path("pat-output"),
    device: Device = None,
    recursive: Recursive = False,
    overwrite: Overwrite = True,
    quiet: Quiet = False,
) -> None:
    """
    Turn photos into tokens and back.

    Writes for each photo STEM_reconstruction.png: the original beside what 1, 2, ... levels of tokens keep of it.
    Photos are scaled to the model's size first; PSNR and bits per pixel are at that size.
    """
    console.quiet = quiet
    jobs = plan_jobs(images, output, ("_reconstruction.png",), recursive, overwrite)
    from .photos import Reconstructor

    reconstructor = load(lambda: Reconstructor(model, device))
    check_archives(jobs, reconstructor.model)
    make_folder(output)
    with jobs.resumable_batches(1) as batches:
        for (job,) in batches:
            photo = jobs.open(job)
            if photo is None:
                continue
            original, rows = reconstructor(photo)
            jobs.save(write_reconstruction, job, original, rows)
            console.print(reconstruction_table(job, rows))
    jobs.finish(output)


@app.command()
def export(
    output: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.", show_default=False)],
    model: ModelName = "pat-nano",
    format: Annotated[Literal["onnx"], typer.Option(help="What to write.")] = "onnx",
    int8: Annotated[
        Literal["dynamic", "static"] | None,
        typer.Option(help="Weights of 8 bits, activations by their range in each run or over --photos."),
    ] = None,
    photos: Annotated[
        list[str] | None, typer.Option(metavar="IMAGE", help="For --int8 static: files, folders or globs; a few do.")
    ] = None,
) -> None:
    """
    Write a checkpoint as ONNX graphs, which `transformers_pat.onnx` runs without PyTorch.

    Takes about a minute. Batch, size and number of labels stay free.
    """
    found, missing = find_images(photos or [])
    if missing:
        fail("; ".join(missing))
    require_onnx_extra("onnxruntime", "onnxscript")
    from ..export import export_onnx
    from ..loading import load_checkpoint
    from ..modeling_pat import PatForSemanticSegmentation

    with console.status("exporting"):
        load(lambda: export_onnx(*load_checkpoint(PatForSemanticSegmentation, model), output, int8, found))
    size = sum(path.stat().st_size for path in output.iterdir())
    console.print(f"{output}: {size / 1e6:.1f} MB")


# The next commands parse their arguments themselves, --help included.
FORWARD = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=FORWARD, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train PAT on photos with masks, or its tokenizer on any photos. `train --help` lists the options."""
    from .arguments import run_script
    from .train import main

    run_script(main, context.args)


@app.command(context_settings=FORWARD, add_help_option=False)
def evaluate(context: typer.Context) -> None:
    """Compare a checkpoint's segmentations with masks. `evaluate --help` lists the options."""
    from .arguments import run_script
    from .evaluate import main

    run_script(main, context.args)


@app.command("check-data", context_settings=FORWARD, add_help_option=False)
def check_data(context: typer.Context) -> None:
    """Check the download of a benchmark. `check-data --help` lists the options."""
    from .check_data import main

    main(context.args)


for command in (tokenize, query, verify, codes):
    app.command()(command)
app.command("app")(serve_app)


# What to say and to write


def open_writers(formats: list[AnnotationFormat], output: Path, labels: list[str]) -> "list[AnnotationWriter]":
    """A writer for each format, in a folder of its name; exits with 2 if the extra `formats` is not installed."""
    if not formats:
        return []
    for module in ("cv2", "pycocotools"):
        if importlib.util.find_spec(module) is None:
            fail('--annotations needs OpenCV and pycocotools: pip install "transformers_pat[formats]"')
    from ..data.annotation_writers import WRITERS
    from ..prompts_pat import label_names

    return [
        load(lambda name=name: WRITERS[name](output / name, label_names(labels))) for name in dict.fromkeys(formats)
    ]


def segmentation_facts(job: Job, photo: "Photo", regions: "list[Region]", model: str) -> dict:
    """What STEM.json holds."""
    return {
        "image": job.source,
        "width": photo.width,
        "height": photo.height,
        "model": model,
        "labels": [asdict(region) for region in regions],
    }


def write_results(
    job: Job,
    photo: "Image",
    label_map: "np.ndarray",
    regions: "list[Region]",
    facts: dict,
    masks: bool,
    cutouts: bool,
    writers: "list[AnnotationWriter]",
) -> None:
    """Everything that is written for a photo."""
    write_segmentation(job, photo, label_map, regions, facts)
    write_parts(job, photo, label_map, regions, masks, cutouts)
    for writer in writers:
        writer.add(job.target.name, job.source, photo, label_map)


def write_segmentation(
    job: Job, photo: "Image", label_map: "np.ndarray", regions: "list[Region]", facts: dict
) -> None:
    """Overlay, label map (8 bits a pixel and the overlay's colours; 16 bits for more than 256 labels) and JSON."""
    from ..prompts_pat import label_names
    from ..visualization import label_image, overlay

    names = label_names([region.label for region in regions])
    overlay(photo, label_map, names).save(job.path("_overlay.png"))
    label_image(label_map, names).save(job.path("_labels.png"))
    job.path(".json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_parts(
    job: Job, photo: "Image", label_map: "np.ndarray", regions: "list[Region]", masks: bool, cutouts: bool
) -> None:
    """The mask (0 and 255) and the part of the photo, transparent elsewhere, of each label that occurs."""
    from PIL import Image

    for region in regions:
        inside = label_map == region.id
        if not inside.any():
            continue
        mask = Image.fromarray(inside.astype("uint8") * 255)
        name = f"{region.id}_" + re.sub(r"[^\w-]+", "-", region.label).strip("-")
        if masks:
            mask.save(job.path(f"_mask_{name}.png"))
        if cutouts:
            cutout = photo.convert("RGB")
            cutout.putalpha(mask)
            cutout.crop(mask.getbbox()).save(job.path(f"_cutout_{name}.png"))


def write_reconstruction(job: Job, original: "Image | None", rows: "list[Reconstruction]") -> None:
    """Write the photo beside its reconstructions."""
    from ..visualization import reconstruction_sheet

    captions = [f"{levels(row.num_levels)}, {psnr_text(row)} dB, {row.bits_per_pixel:.3f} bits/pixel" for row in rows]
    reconstruction_sheet(original, [row.image for row in rows], captions).save(job.path("_reconstruction.png"))


def segmentation_table(job: Job, regions: "list[Region]") -> Table:
    """The labels that occur, largest first."""
    from ..visualization import format_share

    table = new_table(job, "Label", "Share", "Mean score")
    for region in sorted(regions, key=lambda region: -region.share):
        if region.mean_score is not None:
            table.add_row(escape(region.label), format_share(region.share), f"{region.mean_score:.2f}")
    return table


def reconstruction_table(job: Job, rows: "list[Reconstruction]") -> Table:
    """PSNR and bits per pixel by number of levels."""
    table = new_table(job, "Tokens", "PSNR (dB)", "Bits per pixel")
    for row in rows:
        table.add_row(levels(row.num_levels), psnr_text(row), f"{row.bits_per_pixel:.3f}")
    return table


def psnr_text(row: "Reconstruction") -> str:
    """PSNR with one decimal; a question mark where there is no photo to compare with."""
    return "?" if math.isnan(row.psnr) else f"{row.psnr:.1f}"


def new_table(job: Job, first: str, *others: str) -> Table:
    """An empty table with these columns, the first of text, the others of numbers."""
    table = Table(title=escape(job.name), title_justify="left")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def levels(count: int) -> str:
    """Write the number with its noun: "1 level", "3 levels"."""
    return f"{count} level{'s' if count > 1 else ''}"
