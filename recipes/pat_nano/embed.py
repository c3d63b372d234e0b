"""Turns the trained PAT into the folder that the package carries: half-precision weights, no code.

python recipes/pat_nano/embed.py WORK/pat-nano src/transformers_pat/pat_nano

Its card is written by card.py, once results.py has measured it.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import torch

from transformers_pat import PatForSemanticSegmentation, PatProcessor

# Whole photos at this short side: that of the training crops.
SIZE = {"shortest_edge": 224, "longest_edge": 1024}


def half(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Weights in float16; the codebooks and their statistics stay in float32."""
    return tensor.half() if tensor.is_floating_point() and "codebooks" not in name else tensor


def drop_code(folder: Path) -> None:
    """The package is the code of its own checkpoint: no copies of it, no pointer to them."""
    for path in folder.glob("*.py"):
        path.unlink()
    for path in (folder / "config.json", folder / "processor_config.json"):
        fields = json.loads(path.read_text())
        for owner in (fields, fields.get("image_processor", {})):
            owner.pop("auto_map", None)
            owner.pop("custom_pipelines", None)
        path.write_text(json.dumps(fields, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="what examples/train.py saved")
    parser.add_argument("target", type=Path, help="the folder to write")
    args = parser.parse_args()
    model = PatForSemanticSegmentation.from_pretrained(args.source)
    model.config.clip_name_or_path = None  # it was a folder of the machine that trained it
    shutil.rmtree(args.target, ignore_errors=True)
    model.save_pretrained(args.target, state_dict={name: half(name, t) for name, t in model.state_dict().items()})
    processor = PatProcessor.from_pretrained(args.source)
    processor.image_processor.size = SIZE
    processor.save_pretrained(args.target)
    drop_code(args.target)
    size = sum(path.stat().st_size for path in args.target.iterdir())
    print(f"{args.target}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
