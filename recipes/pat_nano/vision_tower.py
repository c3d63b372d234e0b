"""Trains the vision tower of pat-nano from random initialisation: a CLIP vision model distilled from an image teacher.

Random crops, recoloured and mixed, go through the frozen teacher and the tower. The tower learns the teacher's dense
and pooled embeddings in text space, and the teacher's features at three depths through heads that are thrown away.
No mask and no label is read here. Runs on a CPU or a GPU, stops when its time is up, and resumes from its last
checkpoint.

    python recipes/pat_nano/vision_tower.py --photos WORK/photos.pt --teacher WORK/teacher.pt --output WORK/tower \\
        --minutes 150 [--device cuda]
"""

from __future__ import annotations

import argparse
import math
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from crops import PhotoBank, draw_batch
from dense_teacher import DenseTeacher
from locality import make_local
from torch import nn
from transformers import CLIPConfig, CLIPModel

VISION = dict(
    hidden_size=224, intermediate_size=896, num_hidden_layers=8, num_attention_heads=7, image_size=224, patch_size=16,
    hidden_act="gelu", projection_dim=256,
)  # fmt: skip
VISION_PARTS = ("vision_model.", "visual_projection.")
PATCH = VISION["patch_size"]
FINE_LAYER, MIDDLE_LAYER = 2, 4  # supervised by the teacher's features at strides 8 and 16
WARMUP, EMA, WEIGHT_DECAY, CLIP_NORM = 500, 0.999, 0.05, 1.0
DROP_PATH = 0.05
MASKED = 0.5  # up to this share of a crop's patches is hidden from the tower, not from the teacher
NAME_SCALE = 15.0  # of cosines with names, for the divergence between the teacher's and the tower's
WEIGHTS = {"dense": 1.0, "names": 0.2, "image": 0.3, "fine": 0.3, "middle": 0.5, "last": 0.5}


def new_clip() -> CLIPModel:
    """A CLIP with the vision tower to train; the text tower is put in when the folder is written."""
    text = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, projection_dim=256)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=256))
    make_local(clip.vision_model)
    return clip


def cubic_taps(points: torch.Tensor, cells: int) -> torch.Tensor:
    """Weights (N, points, cells) that read a row of `cells` values at `points` (N, points), fractions of its length.

    The cubic convolution of `torch.nn.functional.interpolate(mode="bicubic")`, as a matrix.
    """
    position = points * cells - 0.5
    base = position.floor()
    weights = torch.zeros(*points.shape, cells, device=points.device)
    for tap in range(-1, 3):
        distance = (position - base - tap).abs()
        near = 1.25 * distance**3 - 2.25 * distance**2 + 1
        far = -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        index = (base + tap).clamp(0, cells - 1).long()
        weights.scatter_add_(2, index[..., None], torch.where(distance <= 1, near, far)[..., None])
    return weights


def windowed_positions(embeddings: nn.Module, windows: torch.Tensor, side: int) -> torch.Tensor:
    """The position embedding read at each window of the whole photo: (N, side * side, dim).

    `windows` (N, 4): left, top, right, bottom as fractions; right < left is a mirrored crop. A window (0, 0, 1, 1)
    gives CLIP's own interpolation of the position embedding.
    """
    table = embeddings.position_embedding.weight[1:]
    cells = math.isqrt(len(table))
    steps = (torch.arange(side, device=windows.device) + 0.5) / side
    across = cubic_taps(windows[:, 0:1] + steps * (windows[:, 2] - windows[:, 0])[:, None], cells)
    down = cubic_taps(windows[:, 1:2] + steps * (windows[:, 3] - windows[:, 1])[:, None], cells)
    rows = (down.flatten(0, 1) @ table.view(cells, -1)).view(len(windows), side, cells, -1)
    return (across[:, None] @ rows).flatten(1, 2)


class Student(nn.Module):
    """The tower to train with the heads that are thrown away."""

    def __init__(self, widths: tuple[int, int, int]):
        super().__init__()
        self.clip = new_clip()
        hidden = VISION["hidden_size"]
        self.fine, self.middle, self.last = (nn.Linear(hidden, width) for width in (4 * widths[0], *widths[1:]))

    def forward(self, pixels: torch.Tensor, windows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Embeddings and features of crops (N, 3, S, S); all (N, patches, width) but "image", (N, dim)."""
        tower = self.clip.vision_model
        patches = tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        if self.training:
            hidden_share = torch.empty(len(patches), 1, 1, device=pixels.device).uniform_(-MASKED, MASKED)
            patches = patches * (torch.rand(*patches.shape[:2], 1, device=pixels.device) >= hidden_share)
        patches = patches + windowed_positions(tower.embeddings, windows, pixels.shape[-1] // PATCH)
        first = tower.embeddings.class_embedding + tower.embeddings.position_embedding.weight[0]
        states = tower.pre_layrnorm(torch.cat([first.expand(len(patches), 1, -1), patches], dim=1))
        outputs = {}
        for number, layer in enumerate(tower.encoder.layers, start=1):
            deeper = layer(states, None)
            if self.training:
                keep = (torch.rand(len(states), 1, 1, device=pixels.device) >= DROP_PATH) / (1 - DROP_PATH)
                deeper = states + keep * (deeper - states)
            states = deeper
            if number == FINE_LAYER:
                outputs["fine"] = self.fine(states[:, 1:])
            if number == MIDDLE_LAYER:
                outputs["middle"] = self.middle(states[:, 1:])
        outputs["last"] = self.last(states[:, 1:])
        embeds = F.normalize(self.clip.visual_projection(tower.post_layernorm(states)).float(), dim=-1)
        return outputs | {"dense": embeds[:, 1:], "image": embeds[:, 0]}


def losses(student: dict[str, torch.Tensor], teacher: dict[str, torch.Tensor], names: torch.Tensor) -> dict:
    """One minus the cosine of both embeddings, the divergence of their cosines with all `names` (K, dim), and the
    smooth L1 distance of standardised features."""
    parts = {name: (1 - (student[name] * teacher[name]).sum(-1)).mean() for name in ("dense", "image")}
    # Every fourth patch: a thousand names for each are most of the loss's cost.
    ours, theirs = (NAME_SCALE * side["dense"][:, ::4] @ names.T for side in (student, teacher))
    divergence = F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="none", log_target=True)
    parts["names"] = divergence.sum(-1).mean()
    for name in ("fine", "middle", "last"):
        parts[name] = F.smooth_l1_loss(student[name].float(), teacher[name].float())
    return parts


def make_optimizers(student: Student, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for the rest."""
    trained = {n: p for n, p in student.named_parameters() if not n.startswith(("clip.text_", "clip.logit"))}
    matrices = [p for n, p in trained.items() if "encoder" in n and p.ndim == 2]
    other = [p for n, p in trained.items() if not ("encoder" in n and p.ndim == 2)]
    return [
        torch.optim.AdamW(other, lr=rate, betas=(0.9, 0.98), weight_decay=WEIGHT_DECAY),
        torch.optim.Muon(matrices, lr=rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
    ]


class Run:
    """The training's whole state: what a checkpoint keeps and what a step does."""

    def __init__(self, args: argparse.Namespace):
        self.args, self.device = args, torch.device(args.device)
        torch.manual_seed(args.seed)
        self.teacher = DenseTeacher.load(args.teacher, self.device)
        self.bank = PhotoBank.load(args.photos, self.device)
        self.student = Student(self.teacher.widths).to(self.device)
        self.average = torch.optim.swa_utils.AveragedModel(
            self.student, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA)
        )
        self.optimizers = make_optimizers(self.student, args.learning_rate)
        self.step, self.crops, self.elapsed = 0, 0, 0.0
        self.parts = {"student": self.student, "average": self.average}
        self.checkpoint = args.output / "tower_run.pt"

    def progress(self) -> float:
        """The share of the time that is used up, 0 to 1."""
        return min(1.0, self.elapsed / (60 * self.args.minutes))

    def learning_rate(self) -> float:
        decay = 0.5 * (1 + math.cos(math.pi * self.progress()))
        return self.args.learning_rate * min(1, (self.step + 1) / WARMUP) * (0.01 + 0.99 * decay)

    def train_step(self) -> dict[str, torch.Tensor]:
        for group in (group for optimizer in self.optimizers for group in optimizer.param_groups):
            group["lr"] = self.learning_rate()
        pixels, windows = draw_batch(self.bank, self.args.batch, self.args.crop)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            target = self.teacher(pixels)
            output = self.student(self.teacher.normalize_for_clip(pixels), windows)
        parts = losses(output, target, self.teacher.names)
        loss = sum(WEIGHTS[name] * part for name, part in parts.items())
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), CLIP_NORM)
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.update_parameters(self.student)
        self.step, self.crops = self.step + 1, self.crops + len(pixels)
        return {name: part.detach() for name, part in parts.items()}

    def save(self) -> None:
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}
        state |= {"step": self.step, "crops": self.crops, "elapsed": self.elapsed}
        torch.save(state, self.checkpoint.with_suffix(".part"))
        os.replace(self.checkpoint.with_suffix(".part"), self.checkpoint)

    def resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.crops, self.elapsed = (state[name] for name in ("step", "crops", "elapsed"))

    def export(self) -> None:
        """The averaged tower in half precision, small enough to carry."""
        clip = self.average.module.clip.state_dict()
        tower = {name: value.half().cpu() for name, value in clip.items() if name.startswith(VISION_PARTS)}
        torch.save(tower, self.args.output / "vision_tower.part")
        os.replace(self.args.output / "vision_tower.part", self.args.output / "vision_tower.pt")

    def train(self) -> None:
        recent: list[dict[str, torch.Tensor]] = []
        last_log = last_save = begin = time.monotonic()
        start, crops = self.elapsed, self.crops
        while self.progress() < 1 and self.step < self.args.max_steps:
            recent.append(self.train_step())
            now = time.monotonic()
            self.elapsed = start + now - begin
            if now - last_log > self.args.log_every:
                means = {name: torch.stack([part[name] for part in recent]).mean().item() for name in recent[0]}
                speed = (self.crops - crops) / (now - begin)
                text = " ".join(f"{name} {value:.4f}" for name, value in means.items())
                log(f"minute {self.elapsed / 60:.1f} step {self.step} crops {self.crops} {speed:.0f}/s {text}")
                recent, last_log = [], now
            if now - last_save > self.args.save_every:
                self.save()
                self.export()
                last_save = now
        self.save()
        self.export()
        log(f"done: {self.elapsed / 60:.1f} minutes, {self.step} steps, {self.crops} crops")


def log(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="files made by crops.py")
    parser.add_argument("--teacher", type=Path, required=True, help="the teacher with its map to text space")
    parser.add_argument("--output", type=Path, required=True, help="folder for checkpoint and tower")
    parser.add_argument("--minutes", type=float, default=150, help="training time, all resumed parts together")
    parser.add_argument("--max-steps", type=int, default=10**9)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--crop", type=int, default=160, help="side of the crops, pixels")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--log-every", type=float, default=30, help="seconds")
    parser.add_argument("--save-every", type=float, default=120, help="seconds")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if args.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    run = Run(args)
    if run.checkpoint.is_file():
        run.resume()
    log(f"{sum(p.numel() for p in run.student.clip.vision_model.parameters()) / 1e6:.2f} M parameters, {vars(args)}")
    run.train()


if __name__ == "__main__":
    main()
