"""Measures a checkpoint and writes docs/evidence.md anew.

python -m recipes.pat_nano.evidence --data DATA

A second run gives the same figures. trainings.py writes those of the ablation.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from transformers_pat import PAT_NANO, PatForSemanticSegmentation, PatProcessor
from transformers_pat.cli.arguments import parse_arguments
from transformers_pat.evaluation.tokens import TokenMetric

from ..splits import measured_sets
from . import masks, pictures, tokens

ROOT = Path(__file__).parents[3]
TEMPLATE = Path(__file__).with_name("evidence.md.in")


@dataclass
class EvidenceConfig:
    data: str = field(metadata={"help": "Folder of the data sets camvid, msrc_v2 and voc_animals."})
    model: str = field(default=PAT_NANO, metadata={"help": "Checkpoint to measure."})
    output: str = field(default=str(ROOT / "docs" / "evidence.md"), metadata={"help": "File to write."})
    processes: int = field(default=2, metadata={"help": "Parts at a time, of one thread each."})


def tokens_alone(args: EvidenceConfig) -> dict[str, str]:
    model, processor, datasets = opened(args)
    metrics = {name: TokenMetric(model.config.codebook_sizes) for name in (*datasets, "all")}
    photos = {
        name: tokens.read_photos(model.pat, processor, dataset, metrics[name], metrics["all"])
        for name, dataset in datasets.items()
    }
    text_embeds = {name: model.get_text_embeds(dataset.names, processor) for name, dataset in datasets.items()}
    pictures.draw(model.pat, processor, Path(args.output).parent / "images")
    return {
        "USE": tokens.use_table(metrics),
        "QUALITY": tokens.quality_table(photos),
        "RECOGNITION": tokens.recognition_table(photos, text_embeds),
        "PURITY": tokens.purity_table(model, photos, {name: dataset.names for name, dataset in datasets.items()}),
    }


def levels(args: EvidenceConfig) -> dict[str, str]:
    return {"LEVELS": masks.levels_table(*opened(args))}


def words(args: EvidenceConfig) -> dict[str, str]:
    return {"WORDS": masks.words_table(*opened(args))}


def robustness(args: EvidenceConfig) -> dict[str, str]:
    return {"ROBUSTNESS": masks.robustness_table(*opened(args))}


def opened(args: EvidenceConfig):
    """Model, processor and data sets."""
    model = PatForSemanticSegmentation.from_pretrained(args.model).eval()
    return model, PatProcessor.from_pretrained(args.model), measured_sets(Path(args.data))


def main() -> None:
    args = parse_arguments(EvidenceConfig, __doc__)
    text = TEMPLATE.read_text(encoding="utf-8")
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, spawn, torch.set_num_threads, (1,)) as pool:
        parts = [pool.submit(part, args) for part in (tokens_alone, robustness, words, levels)]
        for part in parts:
            for name, section in part.result().items():
                text = text.replace("{" + name + "}", section)
    Path(args.output).write_text(text, encoding="utf-8")
    print(f"Wrote {args.output}")
