"""Tokenising photos, reading included, against the bare CLIP vision forward on the same pixels, in the same run.

python benchmarks/tokenize_speed.py PHOTOS                     random weights at the true size of ViT-B/16
python benchmarks/tokenize_speed.py PHOTOS --model pat-nano    a checkpoint
"""

import statistics
from pathlib import Path
from typing import Annotated

import torch
import typer
from performance.timing import VIT_B16, seconds
from rich.console import Console

from transformers_pat import PatConfig, PatModel
from transformers_pat.archive.tokenizing import ReadPhoto, Tokenizer
from transformers_pat.loading import load_checkpoint


@torch.inference_mode()
def main(
    photos: Annotated[Path, typer.Argument(help="Folder of photos.")],
    model: Annotated[str | None, typer.Option(help="Checkpoint; random ViT-B/16 by default.")] = None,
    count: int = 64,
    batch_size: int = 8,
    workers: int = 2,
    rounds: int = 3,
    threads: int = 2,
) -> None:
    torch.set_num_threads(threads)
    checkpoint, processor = load_checkpoint(PatModel, model or "pat-nano")
    pat = checkpoint if model else PatModel(PatConfig(vision_config=VIT_B16)).eval()
    tokenizer = Tokenizer(pat, processor.image_processor, batch_size, workers)
    sources = sorted(map(str, photos.iterdir()))[:count]
    groups: dict[torch.Size, list[torch.Tensor]] = {}
    for source in sources:
        photo = tokenizer._read(source)
        if isinstance(photo, ReadPhoto):
            groups.setdefault(photo.pixel_values.shape, []).append(photo.pixel_values)
    batches = [
        torch.stack(group[i : i + batch_size]) for group in groups.values() for i in range(0, len(group), batch_size)
    ]

    def forward() -> None:
        for batch in batches:
            pat.vision_model(batch, interpolate_pos_encoding=True)

    def encode() -> None:
        for batch in batches:
            pat.encode(batch)

    times = [
        (seconds(forward), seconds(encode), seconds(lambda: list(tokenizer(sources)))) for _ in range(rounds + 1)
    ][1:]
    bare, encoding, whole = (statistics.median(column) / len(sources) for column in zip(*times, strict=True))
    Console().print(
        f"{model or 'ViT-B/16, random weights'}, {len(sources)} photos, batch {batch_size}: vision forward "
        f"{bare * 1000:.0f} ms per photo, encode {encoding / bare:.2f} times that, tokenize {whole / bare:.2f} times"
    )


if __name__ == "__main__":
    typer.run(main)
