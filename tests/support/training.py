"""A place to train in, and the command that trains there."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from transformers import CLIPImageProcessorPil

from .data import write_set
from .tiny import save_tiny_clip

TRAIN = Path(__file__).parents[2] / "examples" / "train.py"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A tiny CLIP, two data sets with different class lists, and a config for both."""
    folder = tmp_path_factory.mktemp("training")
    save_tiny_clip(folder / "clip")
    CLIPImageProcessorPil(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}).save_pretrained(
        folder / "clip"
    )
    rng = np.random.default_rng(0)
    blocks = [np.kron(rng.integers(0, 3, (3, 4)), np.ones((20, 20))).astype(np.uint8) for _ in range(9)]
    write_set(folder / "data" / "street", {0: "road", 1: "car", 2: "sky"}, blocks)
    animals = write_set(folder / "data" / "animals", {0: "background", 1: "dog", 2: "cat"}, blocks[:5])
    (animals / "splits" / "val.txt").write_text("p0\np1")
    model = {"hidden_size": 16, "codebook_sizes": [8, 8, 8], "codebook_dim": 4, "refiner_channels": 4}
    (folder / "config.yaml").write_text(
        f"clip: {folder / 'clip'}\ndata: {folder / 'data'}\n"
        f"train: [{{folder: street, weight: 2}}, 'animals:train']\nmodel: {json.dumps(model)}\n"
        "crop_size: 32\nbatch_size: 2\nmax_steps: 20\nwarmup_steps: 2\nlog_every: 1\nsave_every: 5\nworkers: 0\n"
        "validation: []\nsynonyms:\n"  # not given
    )
    return folder


def command(workplace, output, *arguments, processes=1):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [
        *(sys.executable, *(launcher if processes > 1 else []), str(TRAIN)),
        *("--config", str(workplace / "config.yaml"), "--output_dir", str(output), *map(str, arguments)),
    ]
