"""Mean IoU of a checkpoint on folders of photos with masks.

python examples/evaluate.py --data ../data/camvid:val ../data/msrc_v2:test --model CHECKPOINT
    --synonyms tests/synonyms.json   ask with other words than the class names
    --source codes                   segment from the tokens alone; "floor" is CLIP without any training
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from transformers import HfArgumentParser

from transformers_pat import PAT_NANO, PatForSemanticSegmentation, PatProcessor
from transformers_pat.evaluation import Source, evaluate_folder


@dataclass
class EvaluateConfig:
    data: list[str] = field(metadata={"help": "FOLDER:SPLIT, one or more."})
    model: str = field(default=PAT_NANO, metadata={"help": "Checkpoint: a folder or a Hub name."})
    synonyms: str | None = field(default=None, metadata={"help": "JSON: data set -> class name -> word to ask with."})
    source: Source = field(default="pixels", metadata={"help": "What to segment from."})
    shortest_edge: int | None = field(default=None, metadata={"help": "Resize to this short side instead."})
    output: str | None = field(default=None, metadata={"help": "JSON file for all figures."})


def main() -> None:
    args = HfArgumentParser(EvaluateConfig, description=__doc__, allow_abbrev=False).parse_args_into_dataclasses()[0]
    model = PatForSemanticSegmentation.from_pretrained(args.model).eval()
    processor = PatProcessor.from_pretrained(args.model)
    if args.shortest_edge:
        processor.image_processor.size["shortest_edge"] = args.shortest_edge
    synonyms = json.loads(Path(args.synonyms).read_text()) if args.synonyms else {}
    results = {}
    table = Table("data", "mean IoU", "with absent classes", "frequency weighted", "pixel accuracy", title=args.source)
    for item in args.data:
        folder, _, split = item.rpartition(":")
        words = synonyms.get(Path(folder).name)
        metric, names = evaluate_folder(model, processor, folder, split, words, args.source)
        scores = metric.compute()
        results[item] = {**scores, "names": names}
        columns = ("mean_iou", "mean_iou_with_absent", "frequency_weighted_iou", "pixel_accuracy")
        table.add_row(f"{Path(folder).name} {split}", *(f"{scores[column]:.3f}" for column in columns))
    Console().print(table)
    if args.output:
        Path(args.output).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {str(error).splitlines()[0]}")
