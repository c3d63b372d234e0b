"""Measure a checkpoint on the three splits that no training uses, and write the results as JSON and Markdown.

python -m recipes.pat_nano.results --data DATA

Writes docs/results/pat_nano.json and pat_nano.md, the only source of the numbers that README and cards quote.
"""

import json
import shlex
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from transformers_pat import PAT_NANO, PatForSemanticSegmentation, PatProcessor
from transformers_pat.cli.arguments import parse_arguments, run_script
from transformers_pat.evaluation import evaluate_dataset, report
from transformers_pat.evaluation.predictors import Source
from transformers_pat.evaluation.tokens import LevelScores, evaluate_tokens

from .splits import MEASURED, measured_sets

ROOT = Path(__file__).parents[2]
SYNONYMS = Path(__file__).with_name("held_out_synonyms.json")
# Title of a row -> where its logits come from, and whether it is given synonyms that no training used.
ROWS: dict[str, tuple[Source, bool]] = {
    "training-free baseline": ("training_free", False),
    "PAT": ("pixels", False),
    "PAT, held-out synonyms": ("pixels", True),
    "PAT, from codes alone": ("codes", False),
}


@dataclass
class ResultsConfig:
    """Options of the command."""

    data: str = field(metadata={"help": "Folder of the data sets camvid, msrc_v2 and voc_animals."})
    model: str = field(default=PAT_NANO, metadata={"help": "Checkpoint: a folder or a Hub name."})
    output: str = field(
        default=str(ROOT / "docs" / "results" / "pat_nano.json"), metadata={"help": "JSON file to write."}
    )
    workers: int = field(default=1, metadata={"help": "Worker processes that read photos."})


def segmentation_table(results: dict[str, dict[str, dict]], score: str) -> str:
    """A row per way to segment, a column per data set and their mean."""
    rows = []
    for title, by_set in results.items():
        scores = [by_set[name][score] for name in MEASURED]
        rows.append((title, *(f"{value:.3f}" for value in (*scores, sum(scores) / len(scores)))))
    return report.markdown_table((report.SHOWN[score], *map(" ".join, MEASURED.items()), "mean"), rows)


def token_table(results: dict[str, list[LevelScores]]) -> str:
    """A row per data set and number of levels."""
    rows = [
        (
            *(name, f"{level.level}", f"{level.codebook_size}", f"{level.usage:.1%}", f"{level.perplexity:.0f}"),
            *(f"{level.bits_per_pixel:.4f}", f"{level.psnr:.2f}"),
        )
        for name, levels in results.items()
        for level in levels
    ]
    header = ("data", "level", "codes", "used", "perplexity", "bits per pixel up to here", "PSNR up to here, dB")
    return report.markdown_table(header, rows)


def main() -> None:
    """Run the command."""
    args = parse_arguments(ResultsConfig, __doc__)
    datasets = measured_sets(Path(args.data))
    model = PatForSemanticSegmentation.from_pretrained(args.model).eval()
    processor = PatProcessor.from_pretrained(args.model)
    synonyms = json.loads(SYNONYMS.read_text(encoding="utf-8"))
    segmentation: dict[str, dict[str, dict]] = {}
    for title, (source, with_synonyms) in ROWS.items():
        segmentation[title] = {}
        for name, dataset in datasets.items():
            words = [synonyms[name].get(word, word) for word in dataset.prompts] if with_synonyms else None
            evaluation = evaluate_dataset(model, processor, dataset, words, source, workers=args.workers)
            segmentation[title][name] = report.summarize(evaluation)
    tokens = {name: evaluate_tokens(model.pat, processor, dataset) for name, dataset in datasets.items()}
    record = {
        "command": shlex.join(["python", "-m", "recipes.pat_nano.results", *sys.argv[1:]]),
        "model": Path(args.model).name,
        **report.describe_machine(model.device),
        "segmentation": segmentation,
        "tokens": {name: [asdict(level) for level in levels] for name, levels in tokens.items()},
    }
    photos = ", ".join(f"{len(dataset)} of {name} {MEASURED[name]}" for name, dataset in datasets.items())
    notes = f"Photos: {photos}. docs/evaluation.md explains the scores."
    tables = [notes, *(segmentation_table(segmentation, score) for score in ("mean_iou", "boundary_mean_iou"))]
    report.write_report(Path(args.output), record, "Results of pat-nano", [*tables, token_table(tokens)])
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    run_script(main)
