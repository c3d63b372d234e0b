"""How much PAT adds to its own CLIP: segmentation (text cached) against the bare vision forward, in the same run.

python benchmarks/latency.py                     random weights at the true size of ViT-B/16
python benchmarks/latency.py --model CHECKPOINT  a checkpoint, for instance src/transformers_pat/pat_nano
"""

import platform
import statistics
import time
from collections.abc import Callable
from typing import Annotated

import torch
import transformers
import typer
from rich.console import Console
from rich.table import Table

from transformers_pat import PatConfig, PatForSemanticSegmentation

VIT_B16 = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
}


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


@torch.inference_mode()
def main(
    model: Annotated[str | None, typer.Option(help="Checkpoint; random ViT-B/16 by default.")] = None,
    height: int = 640,
    width: int = 640,
    labels: Annotated[list[int], typer.Option(help="Vocabulary sizes.")] = [10, 150, 847],  # noqa: B006
    rounds: int = 5,
    threads: int = 2,
) -> None:
    torch.set_num_threads(threads)
    if model is None:
        pat = PatForSemanticSegmentation(PatConfig(vision_config=VIT_B16)).eval()
    else:
        pat = PatForSemanticSegmentation.from_pretrained(model).eval()
    pixel_values = torch.randn(1, 3, height, width)
    title = f"{model or 'ViT-B/16, random weights'}, {height}x{width}, {threads} threads"
    table = Table("task", "labels", "median s", "ratio to CLIP", title=title)
    codes = pat.pat.encode(pixel_values).codes
    for count in labels:
        text_embeds = torch.nn.functional.normalize(torch.randn(count, pat.config.projection_dim), dim=-1)
        tasks = {
            "CLIP vision forward": lambda: pat.pat.vision_model(pixel_values, interpolate_pos_encoding=True),
            "segment pixels": lambda embeds=text_embeds: pat(pixel_values, text_embeds=embeds),
            "segment stored codes": lambda embeds=text_embeds: pat.segment_codes(codes, embeds),
        }
        # Interleaved, so that a busy machine slows all tasks alike; the first round warms up.
        times = [{name: seconds(run) for name, run in tasks.items()} for _ in range(rounds + 1)][1:]
        floor = statistics.median(row["CLIP vision forward"] for row in times)
        for name in tasks:
            median = statistics.median(row[name] for row in times)
            ratio = statistics.median(row[name] / row["CLIP vision forward"] for row in times)
            table.add_row(name, str(count), f"{median:.3f}", f"{ratio:.2f}" if median != floor else "1")
    console = Console()
    console.print(table)
    console.print(f"{platform.machine()}, torch {torch.__version__}, transformers {transformers.__version__}")


if __name__ == "__main__":
    typer.run(main)
