"""What a training run costs: floating-point operations and memory of one step, counted, and its time on this machine.

python benchmarks/training_cost.py configs/vitb16_coco_stuff.yaml configs/vitl14_336_coco_stuff.yaml

The model has random weights at the true size; one image runs forward and backward. Hours on a GPU are operations over
what it computes at the given utilisation; memory is weights, gradients, Adam's two moments (float32) and what autograd
keeps for the backward (float32: half of it with bf16, at best), times the images per forward.
"""

import time

import torch
import typer
import yaml
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from transformers_pat import PatConfig, PatForSemanticSegmentation

# What openai's checkpoints say of themselves; they are not needed to count.
CLIP_SIZES = {
    "openai/clip-vit-base-patch16": {
        "projection_dim": 512,
        "vision_config": {"hidden_size": 768, "num_hidden_layers": 12, "patch_size": 16, "image_size": 224},
        "heads": 12,
    },
    "openai/clip-vit-large-patch14-336": {
        "projection_dim": 768,
        "vision_config": {"hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14, "image_size": 336},
        "heads": 16,
    },
}
NUM_LABELS = 32  # `max_refined_labels`, the most words of a batch
GIGA = 2**30


def make_model(settings: dict) -> PatForSemanticSegmentation:
    sizes = CLIP_SIZES[settings["clip"]]
    vision = dict(sizes["vision_config"])
    vision |= {"num_attention_heads": sizes["heads"], "intermediate_size": 4 * vision["hidden_size"]}
    config = PatConfig(vision_config=vision, projection_dim=sizes["projection_dim"], **settings.get("model", {}))
    return PatForSemanticSegmentation(config)


def measure(settings: dict) -> dict[str, float]:
    """Of one image: operations, seconds, bytes kept for the backward; of the model: trained parameters, bytes."""
    torch.manual_seed(0)
    model = make_model(settings).train()
    size = settings["crop_size"]
    inputs = {
        "pixel_values": torch.randn(1, 3, size, size),
        "labels": torch.randint(0, NUM_LABELS, (1, size, size)),
        "text_embeds": torch.nn.functional.normalize(torch.randn(NUM_LABELS, model.config.projection_dim), dim=-1),
    }
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model(**inputs).loss.backward()  # starts the codebooks, which happens once
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(**inputs).loss
        loss.backward()
    start = time.perf_counter()
    model(**inputs).loss.backward()
    trained = model.num_trainable_parameters
    return {
        "trained": trained,
        "operations": counter.get_total_flops(),
        "seconds": time.perf_counter() - start,
        "kept": sum(kept.values()),
        "weights": 4 * (sum(p.numel() for p in model.parameters()) + 3 * trained),
    }


def main(configs: list[str], teraflops: float = 312.0, utilisation: float = 0.3) -> None:
    """`teraflops`: what the GPU computes in bf16 at best; 312 is an A100's."""
    table = Table("config", "trained", "TFLOP/image", "images", "GPU hours", "memory, GiB", "s/image here")
    for path in configs:
        with open(path, encoding="utf-8") as file:
            settings = yaml.safe_load(file)
        cost = measure(settings)
        images = settings["max_steps"] * settings["batch_size"] * settings["gradient_accumulation_steps"]
        hours = images * cost["operations"] / (teraflops * 1e12 * utilisation) / 3600
        memory = (cost["weights"] + settings["batch_size"] * cost["kept"]) / GIGA
        table.add_row(
            path.split("/")[-1],
            f"{cost['trained'] / 1e6:.1f} M",
            f"{cost['operations'] / 1e12:.3f}",
            f"{images / 1e6:.2f} M",
            f"{hours:.1f}",
            f"{memory:.1f}",
            f"{cost['seconds']:.1f}",
        )
    console = Console(width=120)
    console.print(table)
    console.print(f"GPU hours: {teraflops:.0f} TFLOP/s at {utilisation:.0%}. Memory: at the config's batch_size.")


if __name__ == "__main__":
    typer.run(main)
