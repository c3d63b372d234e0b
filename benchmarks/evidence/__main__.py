"""Measures a checkpoint and writes docs/evidence.md anew.

python -m benchmarks.evidence --data DATA --ablation WORK/ablation

The ablation's trainings are made by recipes/pat_nano/ablation.py. All else is measured here; a second run gives the
same figures.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from transformers_pat import PAT_NANO, PatForSemanticSegmentation, PatProcessor
from transformers_pat.arguments import parse_arguments, run_script

from . import ablation, masks, pictures, tokens
from .figures import measured_sets

ROOT = Path(__file__).parents[2]
TEMPLATE = Path(__file__).with_name("evidence.md.in")


@dataclass
class EvidenceConfig:
    data: str = field(metadata={"help": "Folder of the data sets camvid, msrc_v2 and voc_animals."})
    ablation: str = field(metadata={"help": "Folder of the ablation's trainings."})
    model: str = field(default=PAT_NANO, metadata={"help": "Checkpoint to measure."})
    output: str = field(default=str(ROOT / "docs" / "evidence.md"), metadata={"help": "File to write."})


def main() -> None:
    args = parse_arguments(EvidenceConfig, __doc__)
    datasets = measured_sets(Path(args.data))
    model = PatForSemanticSegmentation.from_pretrained(args.model).eval()
    processor = PatProcessor.from_pretrained(args.model)
    photos = {name: tokens.read_photos(model.pat, processor, dataset) for name, dataset in datasets.items()}
    text_embeds = {name: model.get_text_embeds(dataset.names, processor) for name, dataset in datasets.items()}
    trained = Path(args.ablation)
    sections = {
        "ABLATION": ablation.ablation_table(trained, "mean_iou"),
        "BOUNDARIES": ablation.ablation_table(trained, "boundary_mean_iou"),
        "HELD_OUT": ablation.held_out_table(trained),
        "USE": tokens.use_table(model, photos),
        "QUALITY": tokens.quality_table(photos),
        "RECOGNITION": tokens.recognition_table(photos, text_embeds),
        "PURITY": tokens.purity_table(model, photos, {name: dataset.names for name, dataset in datasets.items()}),
        "LEVELS": masks.levels_table(model, processor, datasets),
        "WORDS": masks.words_table(model, processor, datasets),
        "ROBUSTNESS": masks.robustness_table(model, processor, datasets),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, section in sections.items():
        text = text.replace("{" + name + "}", section)
    Path(args.output).write_text(text, encoding="utf-8")
    pictures.draw(model.pat, processor, Path(args.output).parent / "images")
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    torch.manual_seed(0)
    run_script(main)
