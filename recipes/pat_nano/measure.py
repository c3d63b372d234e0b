"""What the CLIP alone knows, which learned from no mask: `WORK/measure.json`.

    python recipes/pat_nano/measure.py --data DATA --work WORK

- training-free: mIoU of the patch embeddings against the class names;
- probe: mIoU of a small head on the frozen features, trained on each set's masks for a fixed number of steps;
- zero-shot: how many held-out ImageNet photos the image embedding classifies rightly among all its categories.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from export import SHORT_SIDE
from PIL import Image
from splits import MEASURED
from torch import nn
from transformers import CLIPModel
from transformers.image_utils import OPENAI_CLIP_MEAN as MEAN
from transformers.image_utils import OPENAI_CLIP_STD as STD
from vocabulary import TextTower

from transformers_pat.data import FolderDataset
from transformers_pat.evaluation.metrics import SegmentationMetric
from transformers_pat.training.augmentation import TrainingView
from transformers_pat.training.batches import TrainingBatches

PATCH = 16
PROBE_LAYERS = (2, 4, 6)  # with the patch embeddings
PROBE_STEPS, PROBE_BATCH, PROBE_CROP, PROBE_RATE = 500, 8, 192, 2e-3


def to_pixels(image: Image.Image, short_side: int = SHORT_SIDE) -> torch.Tensor:
    """The whole photo at this short side, both sides rounded to whole patches: (1, 3, H, W), normalised."""
    scale = short_side / min(image.size)
    size = [max(1, round(side * scale / PATCH)) * PATCH for side in image.size]
    pixels = torch.from_numpy(np.array(image.resize(size, Image.Resampling.BICUBIC))).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (pixels - mean) / std


@torch.no_grad()
def features(clip: CLIPModel, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Image embeddings (N, dim), patch embeddings (N, dim, h, w), and the states of `PROBE_LAYERS`, as maps."""
    output = clip.vision_model(pixels, interpolate_pos_encoding=True, output_hidden_states=True)
    embeds = clip.visual_projection(clip.vision_model.post_layernorm(output.last_hidden_state))
    grid = (pixels.shape[-2] // PATCH, pixels.shape[-1] // PATCH)
    maps = [states[:, 1:].transpose(1, 2).unflatten(2, grid) for states in (embeds, *output.hidden_states)]
    return F.normalize(embeds[:, 0], dim=-1), F.normalize(maps[0], dim=1), [maps[1 + layer] for layer in PROBE_LAYERS]


def mean_iou(clip: CLIPModel, data: FolderDataset, classify) -> float:
    """mIoU over a split; `classify` turns what `features` returns into logits (1, classes, h, w)."""
    metric = SegmentationMetric(len(data.names))
    for sample in data:
        logits = classify(*features(clip, to_pixels(sample.image))[1:])
        guess = F.interpolate(logits, sample.labels.shape, mode="bilinear").argmax(1)[0]
        metric.update(guess, torch.from_numpy(sample.labels))
    return metric.compute()["mean_iou"]


def train_probe(clip: CLIPModel, data: FolderDataset) -> nn.Module:
    """A head of two convolutions on the frozen features."""
    width = clip.config.vision_config.hidden_size * len(PROBE_LAYERS) + clip.config.projection_dim
    head = nn.Sequential(nn.BatchNorm2d(width), nn.Conv2d(width, 128, 3, padding=1), nn.GELU())
    head.append(nn.Conv2d(128, len(data.names), 1))
    view = TrainingView(PROBE_CROP, MEAN, STD, scale=(0.8, 1.4))
    optimizer = torch.optim.AdamW(head.parameters(), PROBE_RATE, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, PROBE_RATE, PROBE_STEPS)
    batches = TrainingBatches([(data, 1.0)], view, PROBE_BATCH, PROBE_STEPS, seed=0)
    for number in range(PROBE_STEPS):
        batch = batches[number]
        _, dense, states = features(clip, batch["pixel_values"])
        logits = F.interpolate(head(torch.cat([dense, *states], dim=1)), scale_factor=4, mode="bilinear")
        labels = F.interpolate(batch["labels"][:, None].float(), logits.shape[-2:], mode="nearest-exact")[:, 0].long()
        loss = F.cross_entropy(logits, labels, ignore_index=data.ignore_index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return head.eval()


@torch.no_grad()
def zero_shot(clip: CLIPModel, text: TextTower, data: Path, names: dict) -> dict[str, float]:
    """Top-1 and top-5 accuracy on the held-out ImageNet photos."""
    categories = sorted({name for listed in names["held_out"].values() for name in listed})
    embeds, ranks = text(categories), []
    for file, (name,) in names["held_out"].items():
        image = features(clip, to_pixels(Image.open(data / file).convert("RGB")))[0]
        order = (image @ embeds.T)[0].argsort(descending=True)
        ranks.append(int((order == categories.index(name)).nonzero()))
    top1, top5 = (float(np.mean([rank < k for rank in ranks])) for k in (1, 5))
    return {"photos": len(ranks), "categories": len(categories), "top1": top1, "top5": top5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder with clip and names.json")
    args = parser.parse_args()
    torch.manual_seed(0)
    clip, text = CLIPModel.from_pretrained(args.work / "clip").eval(), TextTower(args.work / "clip")
    names = json.loads((args.work / "names.json").read_text(encoding="utf-8"))
    results: dict[str, dict] = {"zero_shot": zero_shot(clip, text, args.data, names), "training_free": {}, "probe": {}}
    for name, split in MEASURED.items():
        data = FolderDataset(args.data / name, split)
        words = text(data.names)
        free = mean_iou(clip, data, lambda dense, _, words=words: torch.einsum("bdhw,cd->bchw", dense, words))
        head = train_probe(clip, FolderDataset(args.data / name, "train"))
        with torch.no_grad():
            probed = mean_iou(clip, data, lambda dense, states, head=head: head(torch.cat([dense, *states], dim=1)))
        results["training_free"][name], results["probe"][name] = free, probed
        print(name, f"training-free {free:.3f}, probe {probed:.3f}", flush=True)
    (args.work / "measure.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(results["zero_shot"])


if __name__ == "__main__":
    main()
