"""Peak memory of a whole process that segments 2 megapixels by 847 words; and of one with CLIP's forward alone."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator

import torch

from .timing import Row, make_model, make_words

SIDE, NUM_LABELS = 1440, 847  # 2.07 megapixels


CASES = {
    "import": ("imports and the model of ViT-B/16", ""),
    "CLIP": ("CLIP's vision forward", ""),
    "PAT": (f"segmentation by {NUM_LABELS} labels", "≤ 1.5"),
    "PAT, bfloat16": (f"segmentation by {NUM_LABELS} labels, bfloat16", "≤ 1.5"),
    "PAT, setting": (f"segmentation by {NUM_LABELS} labels, MALLOC_MMAP_THRESHOLD_=1000000", "≤ 1.5"),
}
# glibc then gives large blocks back as soon as they are free, where otherwise gaps between them stay.
SETTING = {"MALLOC_MMAP_THRESHOLD_": "1000000"}


def measure(quick: bool = False) -> Iterator[Row]:
    """Each in a process of its own."""
    side = 320 if quick else SIDE
    for what, (title, aim) in CASES.items():
        code = f"from benchmarks.performance.memory import run; run({what!r}, {side})"
        env = os.environ | (SETTING if "setting" in what else {})
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
        where = "" if what == "import" else f", {side}×{side}"
        yield Row("memory", title + where, "", None, float(done.stdout), "GB", aim)


@torch.inference_mode()
def run(what: str, side: int) -> None:
    """Print the peak in GB; called in a new process."""
    model = make_model("ViT-B/16")
    pixel_values = torch.randn(1, 3, side, side)
    if "bfloat16" in what:
        model = model.to(torch.bfloat16)
    if what == "CLIP":
        model.pat.vision_model(pixel_values, interpolate_pos_encoding=True)
    elif what != "import":
        model(pixel_values, text_embeds=make_words(model, NUM_LABELS).to(model.dtype))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9)
