"""Writes a complete CLIP folder: both towers, tokenizer, image processor.

The vision stage calls this itself. On its own it puts another text tower into a CLIP folder that is there:

    python recipes/pat_nano/export.py WORK/clip-final WORK/text
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTextModelWithProjection

SHORT_SIDE = 256


def save_clip(vision: CLIPModel, folder: Path, text_folder: Path) -> None:
    """The vision tower of `vision` and, once it is there, the text tower of `text_folder`."""
    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    clip = vision
    if (text_folder / "config.json").is_file():
        text = CLIPTextModelWithProjection.from_pretrained(text_folder)
        text_config = text.config.to_dict()
        text_config.pop("_name_or_path", None)  # a path of this machine
        vision_config = vision.config.vision_config.to_dict()
        config = CLIPConfig(
            text_config=text_config, vision_config=vision_config, projection_dim=text_config["projection_dim"]
        )
        clip = CLIPModel(config)
        weights = {name: value for name, value in vision.state_dict().items() if not name.startswith("text_")}
        clip.load_state_dict(weights | text.state_dict())
        AutoTokenizer.from_pretrained(text_folder).save_pretrained(partial)
    clip.save_pretrained(partial)
    CLIPImageProcessor(size={"shortest_edge": SHORT_SIDE}, do_center_crop=False).save_pretrained(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


if __name__ == "__main__":
    clip_folder, new_text = map(Path, sys.argv[1:])
    save_clip(CLIPModel.from_pretrained(clip_folder), clip_folder, new_text)
