"""Puts both towers together as a CLIP folder with tokenizer and image processor, for `--clip` and the ablation.

python recipes/pat_nano/export.py --work WORK --output WORK/clip       from what the recipe's stages left in WORK
python recipes/pat_nano/export.py --output WORK/clip                   the CLIP of the packaged pat-nano
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextModelWithProjection
from transformers import PreTrainedTokenizerBase as Tokenizer
from vision_tower import VISION

from transformers_pat import PAT_NANO, PatForSemanticSegmentation, PatProcessor

SHORT_SIDE = 256


def from_stages(work: Path) -> tuple[CLIPModel, Tokenizer]:
    """The towers that `vision_tower.py` and `text_tower.py` trained."""
    text = CLIPTextModelWithProjection.from_pretrained(work / "text")
    text_config = text.config.to_dict()
    text_config.pop("_name_or_path", None)  # a path of this machine
    clip = CLIPModel(
        CLIPConfig(text_config=text_config, vision_config=VISION, projection_dim=VISION["projection_dim"])
    )
    vision = torch.load(work / "vision_tower.pt", weights_only=True)
    weights = {name: value.float() for name, value in vision.items()} | text.state_dict()
    missing, unexpected = clip.load_state_dict(weights, strict=False)
    if unexpected or set(missing) != {"logit_scale"}:
        raise ValueError(f"the towers in {work} don't fit: missing {missing}, unexpected {unexpected}")
    return clip, AutoTokenizer.from_pretrained(work / "text")


def from_checkpoint(checkpoint: str) -> tuple[CLIPModel, Tokenizer]:
    """The frozen CLIP of a PAT."""
    model = PatForSemanticSegmentation.from_pretrained(checkpoint, dtype=torch.float32)
    config = model.config
    clip = CLIPModel(
        CLIPConfig(
            text_config=config.text_config.to_dict(),
            vision_config=config.vision_config.to_dict(),
            projection_dim=config.projection_dim,
        )
    )
    clip.load_state_dict(
        {key.removeprefix("pat."): x for key, x in model.state_dict().items() if model.is_clip_key(key)}
    )
    return clip, PatProcessor.from_pretrained(checkpoint).tokenizer


def save(clip: CLIPModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the folder, whole or not at all."""
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    clip.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    CLIPImageProcessor(size={"shortest_edge": SHORT_SIDE}, do_center_crop=False).save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder with vision_tower.pt and text; without it, pat-nano")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    save(*(from_stages(args.work) if args.work else from_checkpoint(PAT_NANO)), args.output)


if __name__ == "__main__":
    main()
