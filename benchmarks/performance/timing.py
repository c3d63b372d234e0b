"""What all measurements share: rows of the table, times side by side, models of true size with random weights."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from transformers_pat import PatConfig, PatForSemanticSegmentation
from transformers_pat.loading import load_checkpoint

VIT_B16 = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "image_size": 224,
    "patch_size": 16,
}
VIT_L14 = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": 336,
    "patch_size": 14,
}
MODELS = {"ViT-B/16": (VIT_B16, 512), "ViT-L/14": (VIT_L14, 768)}


@dataclass
class Row:
    """One measurement: `ratio` is what took `seconds`, in units of `against` unless the unit says otherwise."""

    part: str
    what: str
    against: str
    seconds: float | None
    ratio: float
    unit: str = "×"
    aim: str = ""
    spread: str = ""  # lowest and highest ratio of the rounds
    x: float | None = None  # where the row lies on its curve


def make_model(name: str) -> PatForSemanticSegmentation:
    """pat-nano, or a model of true size with random weights."""
    if name == "pat-nano":
        return load_checkpoint(PatForSemanticSegmentation, name)[0].eval()
    vision, dim = MODELS[name]
    torch.manual_seed(0)
    return PatForSemanticSegmentation(PatConfig(vision_config=vision, projection_dim=dim)).eval()


def make_words(model: PatForSemanticSegmentation, num_labels: int) -> torch.Tensor:
    """Class embeddings of as many random words."""
    return F.normalize(torch.randn(num_labels, model.config.projection_dim), dim=-1)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def rested(run: Callable[[], object]) -> float:
    """Seconds of a task, once the threads that the one before left spinning sleep."""
    time.sleep(0.3)
    return seconds(run)


def side_by_side(tasks: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each task in each round; interleaved, so that a busy machine slows all alike. Warmed up once."""
    times = [{name: rested(run) for name, run in tasks.items()} for _ in range(rounds + 1)][1:]
    return {name: [one[name] for one in times] for name in tasks}


def row(part: str, what: str, against: str, times: dict[str, list[float]], faster: bool = False, **fields) -> Row:
    """The time of `what` over that of `against`, or with `faster` the other way round."""
    pairs = list(zip(times[what], times[against], strict=True))
    ratios = [other / own if faster else own / other for own, other in pairs]
    fields.setdefault("unit", "× faster" if faster else "×")
    spread = f"{min(ratios):.3g} to {max(ratios):.3g}"
    return Row(part, what, against, statistics.median(times[what]), statistics.median(ratios), spread=spread, **fields)
