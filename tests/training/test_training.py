"""Training as a user runs it: several processes, kills, other objectives, mistakes."""

import glob
import json
import os
import random
import subprocess
import time

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from transformers_pat import PatForSemanticSegmentation, PatModel
from transformers_pat.cli.train import main

from ..support.data import write_set
from ..support.tiny import save_tiny_checkpoint
from ..support.training import ENVIRONMENT, command, kill_with_children, refused, succeed

# A thorough run, as before a release: PAT_TEST_KILLS=20 pytest tests/training -k kill
KILLS = int(os.environ.get("PAT_TEST_KILLS", "2"))


def logged(output, *names):
    """{name: {step: value}} from the TensorBoard files of a run."""
    values = {name: {} for name in names}
    for path in sorted(glob.glob(f"{output}/pat/events*")):
        events = EventAccumulator(path)
        events.Reload()
        for name in set(names) & set(events.Tags()["scalars"]):
            values[name] |= {scalar.step: scalar.value for scalar in events.Scalars(name)}
    return values


def weights(output):
    return load_file(output / "model.safetensors")


def assert_equal_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture(scope="module")
def undisturbed(workplace):
    output = workplace / "undisturbed"
    succeed(workplace, output)
    return output


def test_two_processes_equal_one_with_double_batch(workplace, tmp_path):
    succeed(workplace, tmp_path / "two", processes=2)
    succeed(workplace, tmp_path / "one", "--batch_size", 4)
    losses = (
        "loss",
        "segmentation_loss",
        "code_segmentation_loss",
        "residual_loss",
        "reconstruction_loss",
        "feature_loss",
        "commitment_loss",
    )
    one, two = logged(tmp_path / "one", *losses), logged(tmp_path / "two", *losses)
    for name in losses:
        assert one[name].keys() == set(range(1, 21))
        assert one[name] == pytest.approx(two[name], abs=1e-4)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    codebooks = [name for name in one if "codebooks" in name]
    assert codebooks and all(torch.allclose(one[name], two[name], atol=1e-4) for name in codebooks)
    clip = load_file(workplace / "clip" / "model.safetensors")
    for trained in (one, two):
        frozen = {name.removeprefix("pat."): value for name, value in trained.items() if PatModel.is_clip_key(name)}
        assert len(frozen) == len(clip) and all(torch.equal(frozen[name], clip[name]) for name in clip)


@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_any_moment_and_resumed_it_ends_the_same(workplace, undisturbed, tmp_path, processes):
    expected, arguments = undisturbed, ()
    if processes == 2 or KILLS > 2:
        expected, arguments = tmp_path / "expected", ("--max_steps", 10 * KILLS, "--save_every", 1, "--workers", 1)
        succeed(workplace, expected, *arguments, processes=processes)
    output, rng, kills = tmp_path / "killed", random.Random(processes), 0
    while kills < KILLS:
        run = subprocess.Popen(
            command(workplace, output, "--resume", *arguments, processes=processes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        before = list(output.glob("checkpoints/*"))
        while run.poll() is None and list(output.glob("checkpoints/*")) == before:
            time.sleep(0.02)  # imports and loading: kills there would only test Python
        time.sleep(rng.uniform(0, 0.6))
        if run.poll() is not None:
            break
        kill_with_children(run)
        kills += 1
    print(f"killed {kills} times")  # shown by -rP; a fast machine may be through before the last
    assert kills > 0
    succeed(workplace, output, "--resume", *arguments, processes=processes)
    assert_equal_weights(output, expected)
    first, again = logged(expected, "loss")["loss"], logged(output, "loss")["loss"]
    assert again.keys() <= first.keys() and all(again[step] == first[step] for step in again)


def test_accumulated_batches_validation_and_averaged_weights(workplace, tmp_path):
    output = tmp_path / "run"
    text = succeed(
        *(workplace, output, "--gradient_accumulation_steps", 2, "--ema_decay", 0.5, "--schedule", "polynomial"),
        *("--validation", "animals:val", "--validate_every", 10, "--samples", 1),
    )
    assert text.count("on animals val") == 2
    assert set(logged(output, "mean_iou/animals val")["mean_iou/animals val"]) == {10, 20}
    pictures = {path.name for path in (output / "samples" / "step_0000020").iterdir()}
    assert pictures == {"animals_val_0_levels.png", "animals_val_0_labels.png"}
    assert logged(output, "learning_rate")["learning_rate"][20] == pytest.approx(0, abs=1e-9)
    model = PatForSemanticSegmentation.from_pretrained(output)
    assert all(float(codebook.num_updates) == 40 for codebook in model.pat.codebooks)
    last = load_file(output / "checkpoints" / "step_0000020" / "model.safetensors")
    averaged = weights(output)
    assert not torch.equal(last["pat.pixel_head.weight"], averaged["pat.pixel_head.weight"])


def test_class_lists_that_differ_in_case_train_together(workplace, tmp_path):
    other = write_set(tmp_path / "other", {0: "Sky", 1: "Road"}, [np.eye(40, dtype=np.uint8)] * 2)
    synonyms = tmp_path / "synonyms.json"
    synonyms.write_text(json.dumps({"sky": ["SKY", "heaven"]}))
    arguments = ("--train", "street:train", other, "--synonyms", synonyms, "--max_steps", 6)
    succeed(workplace, tmp_path / "run", *arguments)
    assert set(logged(tmp_path / "run", "segmentation_loss")["segmentation_loss"]) == set(range(1, 7))


def test_validation_without_an_interval_comes_after_the_last_step(workplace, tmp_path):
    text = succeed(workplace, tmp_path, "--validation", "animals:val", "--samples", 0, "--max_steps", 4)
    assert text.count("on animals val") == 1 and "step 4: mean IoU" in text


def test_a_pat_checkpoint_is_trained_further(mistake, workplace, tmp_path):
    save_tiny_checkpoint(tmp_path / "start")
    config = tmp_path / "config.yaml"
    config.write_text(f"init: {tmp_path / 'start'}\ntrain: ['{workplace / 'data' / 'street'}:train']\n")
    arguments = ("--config", config, "--output_dir", tmp_path / "run", "--crop_size", 32, "--batch_size", 2)
    main([*map(str, arguments), "--max_steps", "3", "--warmup_steps", "1", "--workers", "0"])
    before = PatForSemanticSegmentation.from_pretrained(tmp_path / "start")
    after = PatForSemanticSegmentation.from_pretrained(tmp_path / "run")
    assert after.config.to_diff_dict() == before.config.to_diff_dict()
    assert float(after.pat.codebooks[0].num_updates) == 3
    assert 0 < (after.pat.pixel_head.weight - before.pat.pixel_head.weight).abs().max() < 0.01
    start = str(tmp_path / "start")
    assert "either --clip" in mistake("--init", start)
    assert f"use --init {start}" in mistake("--clip", start)
    changed = ["--clip", "", "--init", start, "--model"]
    assert "where this configuration needs (24,)" in mistake(*changed, '{"hidden_size": 24}')
    main([*map(str, arguments), "--model", '{"residual_loss_weight": 0.3}', "--max_steps", "3", "--resume"])
    assert PatForSemanticSegmentation.from_pretrained(tmp_path / "run").config.residual_loss_weight == 0.3


def test_the_tokenizer_alone_needs_no_masks(workplace, tmp_path):
    photos = json.dumps({"photos": str(workplace / "data" / "street" / "images")})
    output = tmp_path / "run"
    succeed(workplace, output, "--objective", "tokenizer", "--train", photos)
    tokenizer = PatModel.from_pretrained(output)
    assert all(float(codebook.num_updates) == 20 for codebook in tokenizer.codebooks)
    assert "masks" in refused(workplace, tmp_path / "other", "--train", photos)


def test_lora_is_trained_beside_pat_and_saved_apart(workplace, tmp_path):
    output = tmp_path / "run"
    succeed(workplace, output, "--lora_rank", 2)
    model = PatForSemanticSegmentation.from_pretrained(output).eval()
    pixel_values, text_embeds = torch.randn(1, 3, 64, 64), torch.eye(16)[:3]
    with torch.no_grad():
        without = model(pixel_values=pixel_values, text_embeds=text_embeds).logits
        adapted = PeftModel.from_pretrained(model, output / "adapter")(
            pixel_values=pixel_values, text_embeds=text_embeds
        ).logits
    assert not torch.allclose(without, adapted)
    clip = load_file(workplace / "clip" / "model.safetensors")
    saved = {name.removeprefix("pat."): value for name, value in weights(output).items()}
    assert all(torch.equal(saved[name], clip[name]) for name in clip)


def test_bad_files_are_skipped_by_name_or_stop_the_run(workplace, tmp_path):
    folder = write_set(tmp_path / "bad", {0: "road", 1: "car"}, [np.eye(40, dtype=np.uint8)] * 4)
    (folder / "images" / "p1.jpg").write_bytes(b"no picture")
    (folder / "masks" / "p2.png").unlink()
    text = succeed(workplace, tmp_path / "run", "--train", folder)
    assert text.count("skipped: photo 'p1.jpg' can't be read") == 1 and "photo 'p2.jpg' has no mask" in text
    assert "'p2.jpg' has no mask" in refused(workplace, tmp_path / "strict", "--train", folder, "--strict")
    classes = write_set(tmp_path / "classes", {0: "road"}, [np.eye(40, dtype=np.uint8)] * 2)
    line = refused(workplace, tmp_path / "classes_run", "--train", classes)
    assert line.startswith("error: none of the 2 samples") and "class ids that the class list does not have: 1" in line


def test_mistakes_end_in_one_line(mistake, workplace, undisturbed, tmp_path):
    photos = workplace / "data" / "street" / "images"
    assert "add --resume" in mistake(output=undisturbed)
    assert "images a step" in mistake("--resume", "--batch_size", 3, output=undisturbed)
    assert "no data folder" in mistake("--train", "nowhere:train")
    assert "did you mean 'learning_rate'" in mistake("--learning_rat", 1)
    assert "'hiden_size'" in mistake("--model", '{"hiden_size": 3}')
    assert "no JSON" in mistake("--model", "{3")
    assert "one entry per level" in mistake("--model", '{"level_strides": [1]}')
    assert "is no CLIP" in mistake("--clip", tmp_path)
    assert "no folder 'CLIP', and no Hub name such as" in mistake("--clip", "CLIP")
    assert "at least 1" in mistake("--batch_size", 0)
    assert "no split 'vall'" in mistake("--validation", "animals:vall")
    assert "has no masks to compare with" in mistake("--validation", json.dumps({"photos": str(photos)}))
    typo = tmp_path / "typo.yaml"
    typo.write_text("learning_rat: 1\n")
    assert "did you mean 'learning_rate'" in mistake("--config", typo)
    typo.write_text("learning_rate: [1\n")
    assert "no YAML" in mistake("--config", typo)
    assert "no file" in mistake("--config", tmp_path / "nothing.yaml")
