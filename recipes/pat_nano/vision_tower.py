"""Trains the vision tower of pat-nano from random initialisation, on two CPU cores and a time budget.

Every patch feature is pulled towards the text embedding of what the patch shows: cross-entropy over scaled cosines
with the class names of the photo's own data set, and with what the convolutional teacher of `conv_teacher.py` says.
Run it again to go on from its last checkpoint.

    python recipes/pat_nano/vision_tower.py --data DATA --work WORK --minutes 150
"""

from __future__ import annotations

import argparse
import math
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from conv_teacher import load_conv_teacher
from export import save_clip
from locality import make_local
from measure import MEAN, STD, measured_sets, score
from photos import Photos, draw_batch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate, kl_div, log_softmax, normalize
from transformers import CLIPConfig, CLIPModel
from vocabulary import Names, TextTower, check_held_out

# photos of each data set in one step
SHARES = {"camvid": 14, "msrc_v2": 16, "voc_animals": 48, "labelme_facade": 4, "coco_subset": 8, "clothing_ccp": 6}
# (until this share of the time, crop size, step size relative to SHARES)
STAGES = [(0.6, 128, 1.0), (0.88, 192, 0.5), (1.0, 256, 0.25)]
SHORT_SIDES = (160.0, 360.0)
VISION = dict(
    hidden_size=192, intermediate_size=768, num_hidden_layers=6, num_attention_heads=6, image_size=224, patch_size=16,
    hidden_act="gelu", projection_dim=256,
)  # fmt: skip
TEACHER_SCALE = 0.75  # the sizes that the teacher was trained on, at half the cost
WARMUP = 200
EMA = 0.998
# Share of the loss that the teacher has: more where it does not fall behind the tower that it teaches.
DISTILLATION = dict.fromkeys(SHARES, 0.2) | {"voc_animals": 0.5}
DROP_PATH = 0.1  # chance that a crop skips a layer (stochastic depth)
MASKED = 0.5  # at most this share of a crop's patches is hidden from the tower, not from the teacher


def new_clip() -> CLIPModel:
    """A CLIP with the vision tower to train; its text tower is put in when the folder is written."""
    text = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=1, projection_dim=256)
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=256))
    clip.set_attn_implementation("eager")  # on a CPU and for 64 patches, faster than the fused kernel
    make_local(clip.vision_model)
    return clip


def cubic_taps(points: torch.Tensor, cells: int) -> torch.Tensor:
    """Weights (N, points, cells) that read a row of `cells` values at `points` (N, points), fractions of its length.

    The cubic convolution of `torch.nn.functional.interpolate(mode="bicubic")`, as a matrix.
    """
    position = points * cells - 0.5
    base = position.floor()
    weights = torch.zeros(*points.shape, cells)
    for tap in range(-1, 3):
        distance = (position - base - tap).abs()
        near = 1.25 * distance**3 - 2.25 * distance**2 + 1
        far = -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        index = (base + tap).clamp(0, cells - 1).long()
        weights.scatter_add_(2, index[..., None], torch.where(distance <= 1, near, far)[..., None])
    return weights


def windowed_positions(embeddings: nn.Module, windows: torch.Tensor, side: int) -> torch.Tensor:
    """The position embedding as read off at each window of the whole photo: (N, side * side, dim).

    `windows` (N, 4): left, top, right, bottom as fractions. A window (0, 0, 1, 1) gives exactly CLIP's own
    interpolation of the position embedding.
    """
    table = embeddings.position_embedding.weight[1:]
    cells = math.isqrt(len(table))
    steps = (torch.arange(side) + 0.5) / side
    across = cubic_taps(windows[:, 0:1] + steps * (windows[:, 2] - windows[:, 0])[:, None], cells)
    down = cubic_taps(windows[:, 1:2] + steps * (windows[:, 3] - windows[:, 1])[:, None], cells)
    rows = (down.flatten(0, 1) @ table.view(cells, -1)).view(len(windows), side, cells, -1)
    return (across[:, None] @ rows).flatten(1, 2)


def drop_paths(clip: CLIPModel) -> None:
    """In training, lets each crop skip each layer now and then."""

    def skip(layer: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        if not layer.training:
            return output
        keep = (torch.rand(len(output), 1, 1) >= DROP_PATH) / (1 - DROP_PATH)
        return inputs[0] + keep * (output - inputs[0])

    for layer in clip.vision_model.encoder.layers:
        layer.register_forward_hook(skip)


def crop_features(
    clip: CLIPModel, pixels: torch.Tensor, windows: torch.Tensor, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit-length patch features (N, P, dim) and image embeddings (N, dim) of crops, some of their patches hidden."""
    tower = clip.vision_model
    patches = tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    seen = rng.random(patches.shape[:2]) >= rng.uniform(-MASKED, MASKED, (len(patches), 1))
    patches = patches * torch.from_numpy(seen)[..., None]
    patches = patches + windowed_positions(tower.embeddings, windows, pixels.shape[-1] // 16)
    first = tower.embeddings.class_embedding + tower.embeddings.position_embedding.weight[0]
    hidden = torch.cat([first.expand(len(patches), 1, -1), patches], dim=1)
    hidden = tower.encoder(inputs_embeds=tower.pre_layrnorm(hidden)).last_hidden_state
    features = normalize(clip.visual_projection(tower.post_layernorm(hidden)).float(), dim=-1)
    return features[:, 1:], features[:, 0]


def set_loss(
    patches: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, names: torch.Tensor, scale: torch.Tensor,
    weights: torch.Tensor, taught: torch.Tensor, distillation: float,
) -> torch.Tensor:  # fmt: skip
    """Cross-entropy of the pixels of one data set's crops with masks and teacher, and a little of the class shares.

    patches (N, P, dim), images (N, dim), labels (N, S/4, S/4), names (C, dim), weights (C,); taught (N, C, h, w) are
    the teacher's logits, which also cover pixels without a label; `distillation` is its share of the loss.
    """
    side = math.isqrt(patches.shape[1])
    logits = (scale * patches @ names.T).transpose(1, 2).unflatten(2, (side, side))
    finer = interpolate(logits, taught.shape[-2:], mode="bilinear")
    distilled = kl_div(log_softmax(finer, 1), log_softmax(taught, 1), reduction="none", log_target=True).sum(1).mean()
    if (labels == 255).all():  # no mask to learn from, and the mean over no pixel is not a number
        return distillation * distilled + 0 * images.sum()
    logits = interpolate(logits, labels.shape[-2:], mode="bilinear")
    dense = cross_entropy(logits, labels, weights, ignore_index=255)
    shares = torch.stack([(labels == i).flatten(1).sum(1) for i in range(len(names))], dim=1).float() * weights
    pooled = cross_entropy(scale * images @ names.T, shares / shares.sum(1, keepdim=True).clamp_min(1))
    return distillation * distilled + (1 - distillation) * dense + 0.1 * pooled


class Run:
    """The training's whole state: what a checkpoint keeps and what a step does."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.work = args.work
        self.step, self.elapsed = 0, 0.0
        self.rngs = [np.random.default_rng((args.seed, worker)) for worker in range(args.threads)]
        self.generators = [torch.Generator().manual_seed(int(rng.integers(2**31))) for rng in self.rngs]
        self.photos = {name: Photos(args.data / name, "clip", args.work / "cache") for name in SHARES}
        check_held_out([name for photos in self.photos.values() for name in photos.names])
        text_tower = TextTower(args.work / "text")
        self.names = {name: Names(photos.names, text_tower) for name, photos in self.photos.items()}
        self.teacher = load_conv_teacher(args.work / "conv_teacher.safetensors")
        self.measured = measured_sets(args.data)
        torch.manual_seed(args.seed)
        self.clip, self.average = new_clip(), new_clip()
        if args.start:
            earlier = CLIPModel.from_pretrained(args.start).state_dict()
            self.clip.load_state_dict({n: v for n, v in earlier.items() if not n.startswith("text_")}, strict=False)
        self.average.load_state_dict(self.clip.state_dict())
        drop_paths(self.clip)
        self.trained = {n: p for n, p in self.clip.named_parameters() if not n.startswith("text_")}
        self.optimizers = self._optimizers()
        # Small operations split badly over threads; half a batch on each thread keeps both cores busy.
        self.workers = ThreadPoolExecutor(args.threads, initializer=torch.set_num_threads, initargs=(1,))

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        """Muon for the matrices of the encoder, one optimizer per thread; AdamW for everything else."""
        matrices = [p for n, p in self.trained.items() if "encoder" in n and p.ndim == 2]
        vectors = [p for n, p in self.trained.items() if p.ndim < 2 or "embedding" in n]
        other = [p for n, p in self.trained.items() if not any(p is q for q in matrices + vectors)]
        groups = [{"params": vectors, "weight_decay": 0.0}, {"params": other}]
        lr, threads = self.args.lr, self.args.threads
        return [torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.98), weight_decay=0.05)] + [
            torch.optim.Muon(matrices[i::threads], lr=lr, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
            for i in range(threads)
        ]

    @property
    def progress(self) -> float:
        return min(1.0, self.elapsed / (60 * self.args.minutes))

    def learning_rate(self) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * self.progress))
        return self.args.lr * min(1, (self.step + 1) / WARMUP) * max(0.01, cosine)

    def gradients(self, worker: int) -> tuple[float, int, tuple[torch.Tensor, ...]]:
        """Draws one thread's share of a batch; returns its loss, how many crops it has, and the gradients."""
        rng = self.rngs[worker]
        size, factor = next((size, factor) for end, size, factor in STAGES if self.progress <= end)
        counts = {name: max(1, round(share * factor / self.args.threads)) for name, share in SHARES.items()}
        drawn = draw_batch(self.photos, counts, size, SHORT_SIDES, rng, self.generators[worker])
        pixels, windows, slices, labels = drawn
        pixels = (pixels - MEAN) / STD
        with torch.no_grad():
            smaller = interpolate(pixels, scale_factor=TEACHER_SCALE, mode="bilinear", antialias=True)
            seen = self.teacher(smaller)
        # Without hardware for it, bfloat16 is slower. The cache of autocast is shared between threads.
        with torch.autocast("cpu", torch.bfloat16, enabled=self.args.bf16, cache_enabled=False):
            patches, images = crop_features(self.clip, pixels, windows, rng)
        scale = self.clip.logit_scale.exp()
        loss = torch.zeros(())
        for name, rows in slices.items():
            table, weights = self.names[name].draw(rng), self.photos[name].class_weights
            taught = (self.teacher.logit_scale.exp() * seen[rows] @ table.T).permute(0, 3, 1, 2)
            part = set_loss(
                patches[rows], images[rows], labels[name], table, scale, weights, taught, DISTILLATION[name]
            )
            loss = loss + part * (counts[name] / len(pixels))
        return loss.item(), len(pixels), torch.autograd.grad(loss, list(self.trained.values()))

    def train_step(self) -> tuple[float, int]:
        """One optimizer step; returns the loss and how many crops it saw."""
        losses, counts, grads = zip(*self.workers.map(self.gradients, range(self.args.threads)), strict=True)
        for parameter, parts in zip(self.trained.values(), zip(*grads, strict=True), strict=True):
            parameter.grad = sum(parts) / len(parts)
        nn.utils.clip_grad_norm_(self.trained.values(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate()
        list(self.workers.map(lambda optimizer: optimizer.step(), self.optimizers))
        with torch.no_grad():
            self.clip.logit_scale.clamp_(max=math.log(100))
            decay = min(EMA, (1 + self.step) / (10 + self.step))
            averaged = dict(self.average.named_parameters())
            torch._foreach_lerp_([averaged[n] for n in self.trained], list(self.trained.values()), 1 - decay)
        self.step += 1
        return sum(losses) / len(losses), sum(counts)

    def evaluate(self, short_side: int, every: int) -> str:
        self.average.eval()
        scores = [
            f"{name} {score(self.average, data, self.names[name].plain, short_side, every):.4f}"
            for name, data in self.measured.items()
        ]
        return f"short side {short_side}, every {every}. photo: " + ", ".join(scores)

    def save(self) -> None:
        state = {
            "clip": self.clip.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "elapsed": self.elapsed,
            "rngs": [rng.bit_generator.state for rng in self.rngs],
            "generators": [generator.get_state() for generator in self.generators],
        }
        torch.save(state, self.work / "vision.part")
        os.replace(self.work / "vision.part", self.work / "vision.pt")

    def resume(self) -> None:
        state = torch.load(self.work / "vision.pt", weights_only=False)
        self.clip.load_state_dict(state["clip"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.elapsed = state["step"], state["elapsed"]
        for rng, saved in zip(self.rngs, state["rngs"], strict=True):
            rng.bit_generator.state = saved
        for generator, saved in zip(self.generators, state["generators"], strict=True):
            generator.set_state(saved)

    def log(self, text: str) -> None:
        line = f"{time.strftime('%H:%M:%S')} step {self.step} min {self.elapsed / 60:.1f} {text}"
        print(line, flush=True)

    def export(self, name: str) -> None:
        folder = self.work / name
        save_clip(self.average, folder, self.args.work / "text")
        link = self.work / "clip-latest.new"
        link.unlink(missing_ok=True)
        link.symlink_to(folder.name)
        os.replace(link, self.work / "clip-latest")

    def train(self) -> None:
        begin = time.monotonic() - self.elapsed
        seen, losses, noted, saved, measured = 0, [], self.elapsed, self.elapsed, self.elapsed
        while self.progress < 1:
            loss, crops = self.train_step()
            self.elapsed = time.monotonic() - begin
            losses.append(loss)
            seen += crops
            if self.elapsed - noted > 30:
                scale = self.clip.logit_scale.exp().item()
                rate = seen / (self.elapsed - noted)
                self.log(
                    f"loss {np.mean(losses):.4f} {rate:.0f} images/s lr {self.learning_rate():.2e} scale {scale:.1f}"
                )
                seen, losses, noted = 0, [], self.elapsed
            if self.elapsed - saved > 60 * self.args.save_every:
                self.save()
                saved = self.elapsed
            if self.elapsed - measured > 60 * self.args.measure_every and self.progress < 0.95:
                self.export(f"clip-{round(self.elapsed / 60)}")
                self.log(self.evaluate(256, 3))
                self.elapsed = measured = noted = time.monotonic() - begin
                seen, losses = 0, []
        self.save()
        self.export("clip-final")
        self.log("final folder written")
        for short_side in self.args.final_sides:
            self.log(self.evaluate(short_side, 1))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for caches, checkpoints and exports")
    parser.add_argument("--start", type=Path, help="CLIP folder to start from, instead of random weights")
    parser.add_argument("--minutes", type=float, default=150)
    parser.add_argument("--bf16", action="store_true", help="worth it on a CPU that computes in bfloat16")
    parser.add_argument("--measure-every", type=float, default=10, help="minutes")
    parser.add_argument("--save-every", type=float, default=5, help="minutes")
    parser.add_argument("--final-sides", type=int, nargs="*", default=[160, 224, 256, 320])
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    args = parse()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    run = Run(args)
    if (args.work / "vision.pt").is_file():
        run.resume()
    run.log(f"{sum(p.numel() for p in run.trained.values()) / 1e6:.2f} M trained parameters, {args}")
    run.train()


if __name__ == "__main__":
    main()
