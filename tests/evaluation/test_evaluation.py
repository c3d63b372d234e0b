"""`transformers-pat evaluate` and the evaluation behind it, with a tiny checkpoint."""

import csv
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transformers_pat import PatForSemanticSegmentation, PatProcessor
from transformers_pat.archive import TokenArchive
from transformers_pat.archive.tokenizing import Tokenizer, describe, plan, tokenize
from transformers_pat.cli import evaluate as evaluate_command
from transformers_pat.cli.arguments import run_script
from transformers_pat.data import FolderDataset
from transformers_pat.evaluation import evaluate_dataset
from transformers_pat.evaluation.metrics import near_boundary
from transformers_pat.evaluation.predictors import ClassPredictor
from transformers_pat.outputs_pat import PatSegmentationOutput

from ..support.data import stripes, write_set
from ..support.tiny import save_tiny_checkpoint

SCRIPT = Path(__file__).parents[2] / "examples" / "evaluate.py"
CLASSES = {0: "road", 1: "car;automobile", 2: "tree", 3: "cat"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_tiny_checkpoint(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(checkpoint):
    model = PatForSemanticSegmentation.from_pretrained(checkpoint).eval()
    return model, PatProcessor.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five photos of different sizes; "cat" is nowhere, and the last photo has no label at all."""
    masks = [stripes(0, 1, 2, 255, size=(50 + 7 * index, 40)) for index in range(4)]
    return write_set(tmp_path_factory.mktemp("data") / "toy", CLASSES, [*masks, stripes(255, size=(40, 40))], "val")


@pytest.fixture
def evaluate(checkpoint):
    """Function that runs the command with these arguments."""

    def run(*arguments):
        run_script(lambda: evaluate_command.main(["--model", str(checkpoint), *map(str, arguments)]))

    return run


def read_results(folder):
    return json.loads((folder / "results.json").read_text())


def test_two_processes_give_what_one_gives(evaluate, checkpoint, data, tmp_path):
    arguments = ["--data", f"{data}:val"]
    evaluate(*arguments, "--output", tmp_path / "one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SCRIPT)]
    command += ["--model", str(checkpoint), *arguments, "--output", str(tmp_path / "two")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote ") == 1
    one, two = read_results(tmp_path / "one"), read_results(tmp_path / "two")
    assert one["data"] == two["data"] and one["data"]["toy val"]["photos"] == 5
    per_image = [(tmp_path / run / "toy_val" / "per_image.csv").read_text() for run in ("one", "two")]
    assert per_image[0] == per_image[1]


def test_what_is_written(evaluate, data, tmp_path, capsys):
    evaluate("--data", f"{data}:val", "--output", tmp_path, "--per_class", "--workers", 0)
    printed = capsys.readouterr().out
    assert "the default" in printed and "absent" in printed and "automobile" in printed
    results = read_results(tmp_path)
    toy = results["data"]["toy val"]
    assert "the default" in results["mean_iou"] and results["versions"]["torch"] and results["machine"]["threads"]
    assert results["command"].startswith("transformers-pat evaluate --model") and "--data" in results["command"]
    document = (tmp_path / "results.md").read_text()
    assert f"| toy val | 5 | {toy['mean_iou']:.3f} |" in document
    assert results["command"] in document and results["versions"]["transformers"] in document
    ious = {row["name"]: row["iou"] for row in toy["classes"]}
    truly = [ious[name] for name in ("road", "car;automobile", "tree")]
    assert toy["mean_iou"] == pytest.approx(sum(truly) / 3)
    assert toy["mean_iou_with_absent"] == pytest.approx(sum(truly) / (3 + (ious["cat"] is not None)))
    with (tmp_path / "toy_val" / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file_name"] for row in rows] == [f"p{index}.jpg" for index in range(5)]
    assert rows[4]["mean_iou"] == "nan" and rows[4]["worst_class"] == ""
    pixels = [(50 + 7 * index) * 40 for index in range(4)]
    shares = np.array([np.mean(stripes(0, 1, 2, 255, size=(50 + 7 * i, 40)) != 255) for i in range(4)]) * pixels
    accuracy = np.average([float(row["pixel_accuracy"]) for row in rows[:4]], weights=shares)
    assert toy["pixel_accuracy"] == pytest.approx(accuracy)
    with Image.open(tmp_path / "toy_val" / "worst.png") as sheet:
        assert sheet.width == 3 * 400 + 4 * 8 and sheet.height > 4 * 200  # four rows of three


def test_each_photo_is_scored_alone(loaded, data):
    model, processor = loaded
    dataset = FolderDataset(data, "val")
    result = evaluate_dataset(model, processor, dataset, progress=False, workers=0)
    predictor = ClassPredictor(model, processor, dataset)
    for photo, sample in list(zip(result.photos, dataset, strict=True))[:4]:
        pixel_values = processor(images=[sample.image], return_tensors="pt").pixel_values
        prediction = predictor(pixel_values, sample.labels.shape).numpy()[sample.labels != 255]
        labels = sample.labels[sample.labels != 255]
        ious = [
            ((prediction == c) & (labels == c)).sum() / ((prediction == c) | (labels == c)).sum() for c in range(3)
        ]
        assert photo.mean_iou == pytest.approx(np.mean(ious))
        assert photo.worst_class == dataset.names[int(np.argmin(ious))]
    assert [photo.mean_iou for photo in result.worst(9)] == sorted(photo.mean_iou for photo in result.photos[:4])


def test_near_boundary_is_one_percent_of_the_diagonal():
    labels = torch.zeros(300, 400, dtype=torch.long)
    labels[:, 200:] = 1
    expected = torch.zeros(300, 400, dtype=torch.bool)
    expected[:, 200 - 6 : 200 + 6] = True  # the two columns at the boundary, and five pixels beyond each
    assert torch.equal(near_boundary(labels), expected)
    assert torch.equal(near_boundary(labels.T), expected.T)
    assert not near_boundary(torch.zeros(30, 40, dtype=torch.long)).any()
    assert near_boundary(torch.eye(2, dtype=torch.long)).all()


class Mapped(FolderDataset):
    """Asks with five words that stand for the classes 0, 1, 2, 3 and 3, as PAS-20b asks for its background."""

    prompts = ["road", "car", "tree", "cat", "sky"]
    prompt_classes = [0, 1, 2, 3, 3]


def test_a_prompt_counts_for_the_class_it_stands_for(loaded, data):
    model, processor = loaded
    dataset = Mapped(data, "val")
    for values, expected in (([0, 0, 0, 0, 9], 3), ([0, 0, 9, 0, 0], 2)):
        source = functools.partial(_constant_logits, values)
        predictor = ClassPredictor(model, processor, dataset, source=source)
        assert (predictor(torch.zeros(1, 3, 64, 64), (8, 9)) == expected).all()


def _constant_logits(values, model, pixel_values, text_embeds):
    return PatSegmentationOutput(logits=torch.tensor(values, dtype=torch.float).view(1, -1, 1, 1).expand(1, -1, 4, 4))


def test_codes_and_training_free_differ_from_pixels(evaluate, data, tmp_path):
    figures = {}
    flags_of = {"pixels": [], "codes": ["--codes-only"], "training_free": ["--training_free"]}
    for name, flags in flags_of.items():
        evaluate("--data", f"{data}:val", "--output", tmp_path / name, "--workers", 0, *flags)
        results = read_results(tmp_path / name)
        assert results["source"] == name
        figures[name] = results["data"]["toy val"]["classes"]
    assert figures["codes"] != figures["pixels"]
    model = PatForSemanticSegmentation.from_pretrained(results["model"]).eval()
    processor = PatProcessor.from_pretrained(results["model"])
    torch.nn.init.constant_(model.segmenter.guidance.start.weight, 3.0)  # nothing that was trained may count
    baseline = evaluate_dataset(
        model, processor, FolderDataset(data, "val"), source="training_free", workers=0, progress=False
    ).metric
    assert [iou for iou in baseline.compute()["per_class_iou"] if iou == iou] == [
        row["iou"] for row in figures["training_free"] if row["iou"] is not None
    ]
    evaluate("--data", f"{data}:val", "--output", tmp_path / "alias", "--workers", 0, "--floor")
    assert read_results(tmp_path / "alias")["data"] == read_results(tmp_path / "training_free")["data"]


def test_seen_and_unseen(evaluate, data, tmp_path):
    seen = tmp_path / "seen.tsv"
    seen.write_text("index\tname\n0\tAutomobile ; van\n1\ttree\n")
    evaluate("--data", f"{data}:val", "--output", tmp_path, "--seen", seen, "--workers", 0)
    toy = read_results(tmp_path)["data"]["toy val"]
    assert [row["name"] for row in toy["classes"] if row["seen"]] == ["car;automobile", "tree"]
    ious = [row["iou"] for row in toy["classes"]]
    assert toy["seen"]["classes"] == 2 and toy["seen"]["mean_iou"] == pytest.approx((ious[1] + ious[2]) / 2)
    assert toy["unseen"]["mean_iou"] == pytest.approx(ious[0])  # "cat" is nowhere
    evaluate("--data", f"{data}:val", "--output", tmp_path, "--seen", "coco_stuff_171", "--workers", 0)
    toy = read_results(tmp_path)["data"]["toy val"]
    assert [row["seen"] for row in toy["classes"]] == [True, True, True, True]


def test_synonyms_are_asked_instead(evaluate, data, tmp_path):
    words = tmp_path / "words.json"
    runs = {"same": {}, "renamed": {"toy": {"road": "zebra crossing"}}, "other": {"elsewhere": {"road": "zebra"}}}
    results = {}
    for name, synonyms in runs.items():
        words.write_text(json.dumps(synonyms))
        evaluate("--data", f"{data}:val", "--output", tmp_path, "--synonyms", words, "--workers", 0)
        results[name] = read_results(tmp_path)["data"]
    assert results["same"] == results["other"] != results["renamed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --data FOLDER:SPLIT"),
        (["--data", "nowhere:val"], "no data folder 'nowhere'"),
        (["--data", "{data}:train"], "no split 'train' (found: val)"),
        (["--data", "{data}:val", "{data}:val"], "same name"),
        (["--data", "{data}:val", "--seen", "cocoo"], "neither a file nor one of"),
        (["--data", "{data}:val", "--training_free", "--codes_only"], "exclude each other"),
        (["--data", "{data}:val", "--model", "no/such/model"], "no model no/such/model"),
        (["--benchmark", "ade20k_150"], "--root"),
        (["--benchmark", "ade20k", "--root", "."], "there are ade20k_150"),
    ],
)
def test_a_mistake_ends_in_one_line(evaluate, data, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        evaluate(*(argument.format(data=data) for argument in arguments))
    assert message in stopped.value.code and "\n" not in stopped.value.code


def test_a_class_list_that_does_not_fit_the_masks(evaluate, tmp_path):
    wrong = write_set(tmp_path / "wrong", CLASSES, [stripes(0, 9, size=(30, 20))], "val")
    for workers in (0, 1):
        with pytest.raises(SystemExit) as stopped:
            evaluate("--data", f"{wrong}:val", "--workers", workers)
        assert "'p0.jpg' has class ids that the class list does not have: 9" in stopped.value.code
        assert "add them to it" in stopped.value.code and "\n" not in stopped.value.code


def test_a_typo_is_named(evaluate, data, capsys):
    with pytest.raises(SystemExit):
        evaluate("--data", f"{data}:val", "--outptu", "x")
    assert "did you mean 'output'?" in capsys.readouterr().err


def test_stored_codes_score_as_codes_do(evaluate, checkpoint, loaded, data, tmp_path):
    model, processor = loaded
    archive = TokenArchive.create(tmp_path / "archive", describe(model.pat, "tiny"))
    photos = sorted(map(str, (data / "images").iterdir()))
    tokenize(archive, Tokenizer(model.pat, processor.image_processor), plan(archive, photos), progress=False)
    evaluate("--data", f"{data}:val", "--codes_only", "--output", tmp_path / "codes")
    evaluate("--data", f"{data}:val", "--archive", archive.path, "--output", tmp_path / "archived")
    codes, archived = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("codes", "archived"))
    assert archived["source"] == "archive" and archived["data"] == codes["data"]


def test_a_photo_that_the_archive_does_not_have(evaluate, loaded, data, tmp_path):
    TokenArchive.create(tmp_path / "archive", describe(loaded[0].pat, "tiny"))
    with pytest.raises(SystemExit, match=r"has no photo .*: tokenize the data set's photos first"):
        evaluate("--data", f"{data}:val", "--archive", tmp_path / "archive")
