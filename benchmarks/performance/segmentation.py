"""How much PAT adds to its own CLIP: segmentation, words encoded before, against the bare vision forward."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from transformers_pat import PatForSemanticSegmentation
from transformers_pat.export import export_onnx
from transformers_pat.loading import load_checkpoint
from transformers_pat.onnx import OnnxSegmenter
from transformers_pat.processing_pat import PatProcessor

from .timing import Row, make_model, make_words, row, side_by_side

CLIP = "its CLIP's vision forward"
AIMS = {("ViT-B/16", 640, 150): "≤ 1.25", ("ViT-B/16", 640, 847): "≤ 1.5", ("pat-nano", 480, 10): "≤ 1.5"}


@torch.inference_mode()
def measure(quick: bool = False) -> Iterator[Row]:
    """Every size, number of labels, batch size, model and way to compute."""
    rounds = 1 if quick else 3
    base, nano, large = make_model("ViT-B/16"), make_model("pat-nano"), make_model("ViT-L/14")
    yield from against_clip("aims", "ViT-B/16", base, (640, 640), [150, 847], rounds)
    yield from against_clip("aims", "pat-nano", nano, (480, 640), [10], 5 * rounds)
    for side in (224, 352, 448, 640, 1024, 2048) if not quick else (224,):
        # A minute or two each at 2048.
        yield from against_clip("size", "ViT-B/16", base, (side, side), [150], rounds if side < 2048 else 1, x=side)
    for count in (1, 10, 100, 1000, 10_000):
        yield from against_clip("labels", "ViT-B/16", base, (352, 352), [count], rounds, x=count)
    for batch in (1, 8, 32) if not quick else (1,):
        yield from against_clip("batch", "ViT-B/16", base, (224, 224), [150], rounds, batch)
    for side in (336, 644) if not quick else (336,):
        yield from against_clip("ViT-L/14", "ViT-L/14", large, (side, side), [150], rounds)
    del large
    yield from ways_to_compute("pat-nano", nano, (480, 640), 10, 3 * rounds)
    if not quick:
        yield from ways_to_compute("ViT-B/16", base, (640, 640), 150, rounds)


def against_clip(
    part: str,
    name: str,
    model: PatForSemanticSegmentation,
    size: tuple[int, int],
    label_counts: list[int],
    rounds: int,
    batch: int = 1,
    x: float | None = None,
) -> Iterator[Row]:
    """One row per number of labels."""
    pixel_values = torch.randn(batch, 3, *size)
    where = f"{name}, {size[1]}×{size[0]}" + (f", batch of {batch}" if batch > 1 else "")
    tasks: dict[str, Callable] = {CLIP: lambda: model.pat.vision_model(pixel_values, interpolate_pos_encoding=True)}
    for count in label_counts:
        words = make_words(model, count)
        tasks[f"{where}, {count} labels"] = lambda words=words: model(pixel_values, text_embeds=words)
    times = side_by_side(tasks, rounds)
    for count in label_counts:
        aim = AIMS.get((name, size[0], count), "") if part == "aims" else ""
        yield row(part, f"{where}, {count} labels", CLIP, times, aim=aim, x=x)


def ways_to_compute(
    name: str, model: PatForSemanticSegmentation, size: tuple[int, int], num_labels: int, rounds: int
) -> Iterator[Row]:
    """float32 in PyTorch against bfloat16, compiled, and ONNX Runtime with float32 and int8 weights."""
    pixel_values, words = torch.randn(1, 3, *size), make_words(model, num_labels)
    where = f"{name}, {size[1]}×{size[0]}, {num_labels} labels"
    against = "PyTorch, float32"

    def in_bfloat16():
        with torch.autocast("cpu", torch.bfloat16):
            model(pixel_values, text_embeds=words)

    compiled = torch.compile(lambda: model(pixel_values, text_embeds=words).logits)
    processor = load_checkpoint(PatForSemanticSegmentation, "pat-nano")[1]  # the graphs don't depend on it
    with TemporaryDirectory() as folder:
        runtimes = {
            kind: _export(model, processor, Path(folder, kind or "float32"), kind) for kind in (None, "dynamic")
        }
        pixels, embeds = pixel_values.numpy(), words.numpy()
        tasks: dict[str, Callable] = {
            against: lambda: model(pixel_values, text_embeds=words),
            "PyTorch, bfloat16 autocast": in_bfloat16,
            "PyTorch, compiled": compiled,
            "ONNX Runtime, float32": lambda: runtimes[None].segment(*runtimes[None].read(pixels), embeds),
            "ONNX Runtime, int8": lambda: runtimes["dynamic"].segment(*runtimes["dynamic"].read(pixels), embeds),
        }
        times = side_by_side(tasks, rounds)
    for task in list(tasks)[1:]:
        result = row("ways to compute", task, against, times)
        result.what = f"{where}: {task}"
        yield result


def _export(
    model: PatForSemanticSegmentation, processor: PatProcessor, folder: Path, int8: str | None
) -> OnnxSegmenter:
    with torch.inference_mode(False):
        export_onnx(model, processor, folder, int8)
    return OnnxSegmenter(folder, torch.get_num_threads())
