"""Mean IoU of a checkpoint on photos with masks. docs/evaluation.md says what the figures mean.

python examples/evaluate.py --model CHECKPOINT --benchmark ade20k_150 --root ../downloads --output results
python examples/evaluate.py --data ../data/camvid:val ../data/msrc_v2:test --synonyms WORDS.json
torchrun --standalone --nproc_per_node 2 examples/evaluate.py ...
"""

import csv
import json
import math
import platform
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

import transformers_pat
from transformers_pat import PAT_NANO, PatForSemanticSegmentation, PatProcessor
from transformers_pat.cli.arguments import parse_arguments
from transformers_pat.data.base import SegmentationDataset, read_classes
from transformers_pat.data.benchmark import read_class_list
from transformers_pat.data.catalogue import BENCHMARKS
from transformers_pat.data.source import DataSource, read_source
from transformers_pat.evaluation.evaluator import ClassSegmenter, Evaluation, draw_worst, evaluate_dataset

DESCRIPTION = """Segment photos by the class names of their data set, and compare with the masks. The default figure,
"mIoU", is the mean over the classes that occur in the ground truth; "mIoU, absent as 0" also counts, as 0, those that
are only predicted. docs/evaluation.md explains both."""
SHOWN = {
    "mean_iou": "mIoU",
    "mean_iou_with_absent": "mIoU, absent as 0",
    "frequency_weighted_iou": "weighted IoU",
    "pixel_accuracy": "pixel accuracy",
    "boundary_mean_iou": "boundary mIoU",
}
FIGURES = (*SHOWN, "mean_accuracy")
WORST_PHOTOS = 12


@dataclass
class EvaluateConfig:
    model: str = field(default=PAT_NANO, metadata={"help": "Checkpoint: a folder or a Hub name."})
    data: list[str] = field(
        default_factory=list, metadata={"help": "Data sets: FOLDER:SPLIT, or fields of DataSource as JSON."}
    )
    benchmark: list[str] = field(
        default_factory=list, metadata={"help": f"Benchmarks, their split val: {', '.join(BENCHMARKS)}."}
    )
    root: str | None = field(default=None, metadata={"help": "Folder that the benchmarks were unpacked in."})
    codes_only: bool = field(default=False, metadata={"help": "Segment from the tokens alone."})
    floor: bool = field(default=False, metadata={"help": "Segment by CLIP's patch embeddings, without any training."})
    synonyms: str | None = field(default=None, metadata={"help": "JSON: data set -> class name -> word to ask with."})
    seen: str | None = field(
        default=None,
        metadata={"help": "Classes seen in training, for figures of seen and unseen ones: benchmark, .txt or .tsv."},
    )
    shortest_edge: int | None = field(default=None, metadata={"help": "Resize to this short side instead."})
    per_class: bool = field(default=False, metadata={"help": "Show every class."})
    output: str | None = field(
        default=None, metadata={"help": "Folder for results.json and, per data set, per_image.csv and worst.png."}
    )
    workers: int = field(default=1, metadata={"help": "Processes that read photos ahead."})

    def __post_init__(self):
        if self.codes_only and self.floor:
            raise ValueError("--codes_only and --floor exclude each other")
        if bool(self.benchmark) != bool(self.root):
            raise ValueError("--benchmark and --root, the folder of its download, belong together")

    @property
    def source(self) -> str:
        return "codes" if self.codes_only else "floor" if self.floor else "pixels"


def main() -> None:
    args = parse_arguments(EvaluateConfig, DESCRIPTION)
    sources = read_sources(args)
    datasets = {source.name: source.open() for source in sources}
    seen = read_seen(args.seen) if args.seen else None
    prompts = {source.name: make_prompts(args, source, datasets[source.name]) for source in sources}
    # Without cpu=True and without a GPU, accelerate takes the processes of torchrun for strangers.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available())
    model, processor = load(args)
    model.to(accelerator.device)
    results = {}
    for name, dataset in datasets.items():
        accelerator.print(f"{name}: {len(dataset)} photos, {len(dataset.names)} classes")
        evaluation = evaluate_dataset(
            model, processor, dataset, prompts[name], args.source, accelerator, workers=args.workers
        )
        results[name] = summarize(evaluation, seen)
        if accelerator.is_main_process and args.output:
            segmenter = ClassSegmenter(model, processor, dataset, prompts[name], args.source)
            write_photos(Path(args.output, name.replace(" ", "_")), evaluation, dataset, segmenter)
    if accelerator.is_main_process:
        show(args, results)
        if args.output:
            write_results(args, results)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def read_sources(args: EvaluateConfig) -> list[DataSource]:
    """The data sets of the command line."""
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


def load(args: EvaluateConfig) -> tuple[PatForSemanticSegmentation, PatProcessor]:
    """The checkpoint, ready to evaluate."""
    try:
        model = PatForSemanticSegmentation.from_pretrained(args.model).eval()
        processor = PatProcessor.from_pretrained(args.model)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--model: {args.model!r} is no folder with a checkpoint, nor on the Hub: {reason}") from None
    if args.shortest_edge:
        processor.image_processor.size["shortest_edge"] = args.shortest_edge
    return model, processor


def make_prompts(args: EvaluateConfig, source: DataSource, dataset: SegmentationDataset) -> list[str]:
    """The words to ask with: the data set's own, or their synonyms."""
    if not args.synonyms:
        return dataset.prompts
    words = json.loads(Path(args.synonyms).read_text(encoding="utf-8")).get(
        source.name.removesuffix(f" {source.split}"), {}
    )
    return [words.get(prompt, prompt) for prompt in dataset.prompts]


def read_seen(place: str) -> set[str]:
    """Names of a benchmark's classes, or of a class list: "id: name" lines, or .tsv with a column "name"."""
    if place in BENCHMARKS:
        names = [row["name"] for row in read_class_list(BENCHMARKS[place].classes)]
    elif not Path(place).is_file():
        raise ValueError(f"--seen: {place!r} is neither a file nor one of {', '.join(BENCHMARKS)}")
    elif place.endswith(".tsv"):
        with open(place, encoding="utf-8", newline="") as file:
            names = [row.get("name") or "" for row in csv.DictReader(file, delimiter="\t")]
    else:
        names = list(read_classes(place).values())
    if not all(names):
        raise ValueError(f"--seen: {place} has a row without a name; expected a column 'name'")
    return split_synonyms(";".join(names))


def split_synonyms(name: str) -> set[str]:
    return {synonym.strip().lower() for synonym in name.split(";")}


def summarize(evaluation: Evaluation, seen: set[str] | None) -> dict:
    """All figures of a data set; a class is seen if any of its synonyms is on the list."""
    scores = compute(evaluation)
    keys = ("iou", "accuracy", "pixels")
    columns = zip(evaluation.names, *(scores[f"per_class_{key}"] for key in keys), strict=True)
    classes = [dict(zip(("name", *keys), row, strict=True)) for row in columns]
    summary = {"photos": len(evaluation.photos), **{key: scores[key] for key in FIGURES}, "classes": classes}
    if seen is not None:
        for row in classes:
            row["seen"] = bool(split_synonyms(row["name"]) & seen)
        for group, wanted in (("seen", True), ("unseen", False)):
            chosen = [index for index, row in enumerate(classes) if row["seen"] == wanted]
            group_scores = compute(evaluation, chosen)
            summary[group] = {"classes": len(chosen), **{key: group_scores[key] for key in FIGURES}}
    return summary


def compute(evaluation: Evaluation, classes: list[int] | None = None) -> dict:
    """The figures of all or the chosen classes, over all pixels and over those near boundaries."""
    near = evaluation.boundary_metric.compute(classes)
    return {**evaluation.metric.compute(classes), "boundary_mean_iou": near["mean_iou"]}


def show(args: EvaluateConfig, results: dict) -> None:
    """A row per data set, and on request one per class."""
    asked = {"pixels": "from pixels", "codes": "from the tokens alone", "floor": "by CLIP alone"}[args.source]
    table = Table("data", "photos", *SHOWN.values(), title=f"{Path(args.model).name}, {asked}")
    table.caption = "mIoU: over classes in the ground truth (the default); boundary: of pixels near one"
    for name, result in results.items():
        table.add_row(name, str(result["photos"]), *(f"{result[key]:.3f}" for key in SHOWN))
        for group in ("seen", "unseen"):
            if group in result:
                label = f"  {result[group]['classes']} {group}"
                table.add_row(label, "", *(f"{result[group][key]:.3f}" for key in SHOWN))
    console = Console()
    console.print(table)
    for name, result in results.items() if args.per_class else ():
        total = sum(row["pixels"] for row in result["classes"])
        per_class = Table("class", "IoU", "accuracy", "share of pixels", title=name)
        for row in result["classes"]:
            share = row["pixels"] / total if total else math.nan
            per_class.add_row(row["name"], f"{row['iou']:.3f}", f"{row['accuracy']:.3f}", f"{share:.2%}")
        console.print(per_class)


def write_photos(
    folder: Path, evaluation: Evaluation, dataset: SegmentationDataset, segmenter: ClassSegmenter
) -> None:
    """`per_image.csv`, and the worst photos as `worst.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "per_image.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "mean_iou", "pixel_accuracy", "worst_class"])
        for photo in evaluation.photos:
            writer.writerow([photo.file_name, photo.mean_iou, photo.pixel_accuracy, photo.worst_class])
    sheet = draw_worst(evaluation, dataset, segmenter, WORST_PHOTOS)
    if sheet:
        sheet.save(folder / "worst.png")


def write_results(args: EvaluateConfig, results: dict) -> None:
    """`results.json`: every figure, and how it came about; null where a figure is not defined."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    versions |= {module.__name__: module.__version__ for module in (transformers, transformers_pat)}
    record = {
        "command": sys.argv,
        "model": args.model,
        "source": args.source,
        "versions": versions,
        "mean_iou": "over classes that occur in the ground truth (the default)",
        "mean_iou_with_absent": "classes that are predicted but never true count as 0",
        "data": results,
    }
    path = Path(args.output, "results.json")
    path.write_text(json.dumps(nan_to_none(record), indent=2, allow_nan=False), encoding="utf-8")
    Console().print(f"Wrote {path}", highlight=False)


def nan_to_none(value):
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: nan_to_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [nan_to_none(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
