"""The stages of recipes/pat_nano before PAT's training: they run with the masks gone."""

import argparse
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ..support.data import stripes, write_set

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "pat_nano"))
import crops
import image_names
import teacher_map
import vision_tower
from image_teacher import TeacherFeatures


@pytest.fixture
def work(tmp_path):
    """Names read off the masks once; then no mask is left."""
    classes = {0: "background", 1: "sky", 2: "tree"}
    write_set(tmp_path / "data" / "street", classes, [stripes(1, 2, 255, size=(60, 40)), stripes(0, 1, size=(60, 40))])
    image_names.write_names(tmp_path / "data", tmp_path / "names.json")
    shutil.rmtree(tmp_path / "data" / "street" / "masks")
    return tmp_path


def test_of_a_mask_only_the_names_are_kept(work):
    names = json.loads((work / "names.json").read_text())
    assert sorted(map(sorted, names["train"].values())) == [["sky"], ["sky", "tree"]]
    assert names["vocabularies"] == {"street": ["sky", "tree"]} and names["held_out"] == {}


class StandIn(torch.nn.Module):
    """In place of the ImageNet network, whose weights are no part of the tests."""

    def forward(self, pixels):
        size = [side // 16 for side in pixels.shape[-2:]]
        return TeacherFeatures(*(torch.rand(len(pixels), width, *size) for width in (48, 120, 1280)))


def test_the_teacher_is_mapped_without_masks(work, monkeypatch):
    monkeypatch.setattr(teacher_map, "ImageTeacher", StandIn)
    monkeypatch.setattr(teacher_map, "STEPS", 3)
    names = json.loads((work / "names.json").read_text())
    table = {name: F.normalize(torch.randn(256), dim=0) for name in ("sky", "tree")}
    features = teacher_map.read_features(work / "data", sorted(names["train"]), work / "features.pt")
    pooled = torch.stack([features[file].float().mean((1, 2)) for file in names["train"]])
    embed = teacher_map.NameMap(pooled, torch.stack([table["sky"], table["tree"]]))
    before = embed.weight.detach().clone()
    teacher_map.train(embed, features, names["train"], names["vocabularies"], table)
    assert torch.isfinite(embed.weight).all() and not torch.equal(embed.weight, before)


class FixedTeacher:
    """Targets of the right shapes."""

    widths = (12, 20, 32)
    names = F.normalize(torch.randn(4, 256), dim=-1)

    @classmethod
    def load(cls, path, device):
        return cls()

    def normalize_for_clip(self, pixels):
        return pixels

    def __call__(self, pixels):
        count, patches = len(pixels), (pixels.shape[-1] // 16) ** 2
        widths = {"fine": 4 * 12, "middle": 20, "last": 32, "dense": 256, "image": 256}
        flat = {name: torch.ones(count, patches, width) for name, width in widths.items()}
        embeds = {name: F.normalize(flat[name], dim=-1) for name in ("dense", "image")}
        return flat | embeds | {"image": embeds["image"][:, 0]}


def test_the_vision_tower_trains_without_masks_and_resumes(work, monkeypatch):
    monkeypatch.setattr(vision_tower, "DenseTeacher", FixedTeacher)
    crops.pack(work / "data", work / "names.json", work / "photos.pt", parts=1)
    args = argparse.Namespace(device="cpu", seed=0, teacher=None, photos=[work / "photos.pt"], learning_rate=1e-3)
    args.output, args.minutes, args.batch, args.crop = work, 1.0, 2, 32
    args.max_steps, args.log_every, args.save_every = 2, 1e9, 1e9
    run = vision_tower.Run(args)
    run.train()
    args.max_steps = 3
    resumed = vision_tower.Run(args)
    resumed.resume()
    assert resumed.step == 2 and 0 < resumed.elapsed < 60
    resumed.train()
    tower = torch.load(work / "vision_tower.pt", weights_only=True)
    assert resumed.step == 3 and all(value.dtype == torch.float16 for value in tower.values())
    assert all(name.startswith(vision_tower.VISION_PARTS) for name in tower)


def test_a_window_of_the_whole_photo_has_clips_own_positions():
    embeddings = vision_tower.new_clip().vision_model.embeddings
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    own = embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + 12 * 12, 224), 192, 192)[:, 1:]
    np.testing.assert_allclose(
        vision_tower.windowed_positions(embeddings, whole, 12).detach(), own.detach(), atol=1e-4
    )
