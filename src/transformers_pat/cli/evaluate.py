"""`transformers-pat evaluate`: options and order of work. `transformers_pat.evaluation` does it."""

import csv
import json
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from .. import PatForSemanticSegmentation
from ..data import BENCHMARKS, DataSource, SegmentationDataset, read_source
from ..data.base import read_classes
from ..data.benchmark import read_class_list
from ..evaluation import report
from ..evaluation.evaluator import evaluate_dataset
from ..evaluation.predictors import ClassPredictor, Source, StoredCodes
from ..loading import load_checkpoint
from .arguments import parse_arguments, require_accelerate
from .common import require_archive_extra

DESCRIPTION = """Segment photos by the class names of their data set, and compare with the masks. The default score,
"mIoU", is the mean over the classes that occur in the ground truth; "mIoU, absent as 0" also counts, as 0, classes
that are predicted but never true. docs/evaluation.md explains both.

  transformers-pat evaluate --data ../data/camvid:val ../data/msrc_v2:test --output results
  transformers-pat evaluate --model CHECKPOINT --benchmark ade20k_150 --root ../downloads
  torchrun --standalone --nproc_per_node 2 -m transformers_pat.cli evaluate ..."""


@dataclass
class EvaluateConfig:
    """Options of the command."""

    model: str = field(default="pat-nano", metadata={"help": "Checkpoint: a folder, a Hub name or pat-nano."})
    data: list[str] = field(
        default_factory=list, metadata={"help": "Data sets: FOLDER:SPLIT, or fields of DataSource as JSON."}
    )
    benchmark: list[str] = field(
        default_factory=list, metadata={"help": f"Benchmarks, their split val: {', '.join(BENCHMARKS)}."}
    )
    root: str | None = field(default=None, metadata={"help": "Folder that the benchmarks were unpacked in."})
    codes_only: bool = field(default=False, metadata={"help": "Segment from the codes alone."})
    training_free: bool = field(
        default=False,
        metadata={"help": "Similarity of CLIP's patches and the labels, nothing trained.", "aliases": ["--floor"]},
    )
    archive: str | None = field(
        default=None, metadata={"help": "Segment from the codes that this archive has of the photos."}
    )
    synonyms: str | None = field(default=None, metadata={"help": "JSON: data set -> class name -> label to use."})
    seen: str | None = field(
        default=None, metadata={"help": "Score classes seen in training apart: a benchmark, .txt or .tsv."}
    )
    shortest_edge: int | None = field(default=None, metadata={"help": "Resize photos to this short side."})
    per_class: bool = field(default=False, metadata={"help": "Show every class."})
    output: str | None = field(
        default=None,
        metadata={"help": "Folder for results.json, results.md and, per data set, per_image.csv and worst.png."},
    )
    workers: int = field(default=1, metadata={"help": "Worker processes that read photos."})

    def __post_init__(self) -> None:
        if (self.codes_only, self.training_free, bool(self.archive)).count(True) > 1:
            raise ValueError("--codes_only, --training_free and --archive exclude each other")
        if bool(self.benchmark) != bool(self.root):
            raise ValueError("--benchmark and --root, the folder of its download, belong together")

    @property
    def source(self) -> Source:
        """Where the logits come from."""
        return "codes" if self.codes_only else "training_free" if self.training_free else "pixels"


def main(argv: list[str] | None = None) -> None:
    """Run the command with these arguments or the process's; `ValueError` or `OSError` on a user's mistake."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_arguments(EvaluateConfig, DESCRIPTION, argv, prog="transformers-pat evaluate")
    require_accelerate("evaluate")
    from accelerate import Accelerator

    sources = read_sources(args)
    datasets = {source.name: source.open() for source in sources}
    seen = read_seen(args.seen) if args.seen else None
    prompts = {source.name: read_prompts(args.synonyms, source, datasets[source.name]) for source in sources}
    model, processor = load_checkpoint(PatForSemanticSegmentation, args.model)
    if args.shortest_edge:
        processor.image_processor.size["shortest_edge"] = args.shortest_edge
    # With torchrun on CPUs, accelerate starts separate runs unless cpu=True.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    model.to(accelerator.device)
    predict_from = open_archive(args.archive, model) if args.archive else args.source
    results = {}
    for name, dataset in datasets.items():
        accelerator.print(f"{name}: {len(dataset)} photos, {len(dataset.names)} classes")
        evaluation = evaluate_dataset(
            model, processor, dataset, prompts[name], predict_from, accelerator, workers=args.workers
        )
        results[name] = report.summarize(evaluation, seen)
        if accelerator.is_main_process and args.output:
            predictor = ClassPredictor(model, processor, dataset, prompts[name], predict_from)
            report.write_photos(Path(args.output, name.replace(" ", "_")), evaluation, dataset, predictor)
    if accelerator.is_main_process:
        show(args, argv, results, accelerator.device)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def open_archive(path: str, model: PatForSemanticSegmentation) -> StoredCodes:
    """The codes of an archive; `ValueError` if it is none, or of another checkpoint."""
    require_archive_extra()
    from ..archive import TokenArchive
    from ..archive.tokenizing import describe

    archive = TokenArchive(path)
    archive.require(describe(model.pat, "the given checkpoint"))
    return StoredCodes(archive)


def read_sources(args: EvaluateConfig) -> list[DataSource]:
    """The data sets of the command line; `ValueError` if there are none, or two of the same name."""
    sources = [read_source(item) for item in args.data]
    sources += [DataSource(benchmark=name, root=args.root, split="val") for name in args.benchmark]
    names = [source.name for source in sources]
    if not sources:
        raise ValueError("nothing to evaluate: give --data FOLDER:SPLIT or --benchmark NAME --root FOLDER")
    if len(set(names)) < len(names):
        raise ValueError(f"two data sets have the same name; got {', '.join(names)}")
    if any(source.streaming for source in sources):
        raise ValueError("a streamed data set can't be evaluated: leave out streaming")
    return sources


def read_prompts(synonyms: str | None, source: DataSource, dataset: SegmentationDataset) -> list[str]:
    """The data set's own prompts, or their replacements from a JSON file."""
    if not synonyms:
        return dataset.prompts
    words = json.loads(Path(synonyms).read_text(encoding="utf-8-sig"))
    replacements = words.get(source.name.removesuffix(f" {source.split}"), {})
    return [replacements.get(prompt, prompt) for prompt in dataset.prompts]


def read_seen(place: str) -> set[str]:
    """Words of a benchmark's class list, or of a file: "id: name" lines, or .tsv with a column "name"."""
    if place in BENCHMARKS:
        names = [row["name"] for row in read_class_list(BENCHMARKS[place].classes)]
    elif not Path(place).is_file():
        raise ValueError(f"--seen: {place!r} is neither a file nor one of {', '.join(BENCHMARKS)}")
    elif place.endswith(".tsv"):
        with open(place, encoding="utf-8-sig", newline="") as file:
            names = [row.get("name") or "" for row in csv.DictReader(file, delimiter="\t")]
    else:
        names = list(read_classes(place).values())
    if not all(names):
        raise ValueError(f"--seen: {place} has a row without a name; expected a column 'name'")
    return report.split_synonyms(";".join(names))


def show(args: EvaluateConfig, argv: list[str], results: dict[str, dict], device: torch.device) -> None:
    """Print the tables, and with --output write results.json and results.md."""
    source = "archive" if args.archive else args.source
    title = f"{Path(args.model).name}, {report.SOURCES[source]}"
    console = Console()
    console.print(report.result_table(title, results))
    for name, result in results.items() if args.per_class else ():
        console.print(report.class_table(name, result))
    if not args.output:
        return
    path = Path(args.output, "results.json")
    record = {
        "command": shlex.join(["transformers-pat", "evaluate", *argv]),
        "model": args.model,
        "source": source,
        **report.describe_machine(device),
        **report.NOTES,
        "data": results,
    }
    table = report.markdown_table(["data", "photos", *report.SHOWN.values()], report.result_rows(results))
    notes = "\n".join(f"- {report.SHOWN[key]}: {note}." for key, note in report.NOTES.items())
    report.write_report(path, record, title, [table, notes])
    console.print(f"Wrote {path}", highlight=False)
