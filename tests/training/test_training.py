"""examples/train.py as a user runs it: several processes, kills, full disks, other objectives, mistakes."""

import contextlib
import glob
import json
import os
import random
import resource
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from transformers_pat import PatForSemanticSegmentation, PatModel
from transformers_pat.cli.arguments import run_script
from transformers_pat.cli.train import main

from ..support.data import write_set
from ..support.training import command

# A thorough run, as before a release: PAT_TEST_KILLS=20 pytest tests/test_training.py -k kill
KILLS = int(os.environ.get("PAT_TEST_KILLS", "2"))
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def train(workplace, output, *arguments, processes=1, environment=(), **kwargs):
    return subprocess.run(
        command(workplace, output, *arguments, processes=processes),
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, **dict(environment)},
        **kwargs,
    )


def succeed(*arguments, **kwargs):
    finished = train(*arguments, **kwargs)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout + finished.stderr


def refused(*arguments, **kwargs):
    """The last line of a run that should end in one line, without a stack trace."""
    finished = train(*arguments, **kwargs)
    assert finished.returncode != 0 and "Traceback" not in finished.stderr, finished.stderr[-3000:]
    return finished.stderr.strip().splitlines()[-1]


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


def kill_with_children(run):
    """SIGKILL for all at once: torchrun puts its workers into sessions of their own, where they would train on."""
    started = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    for process in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    run.wait()
    psutil.wait_procs(started, timeout=60)


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


def test_half_written_checkpoints_are_not_loaded_and_old_ones_go(workplace, undisturbed, tmp_path):
    output = tmp_path / "run"
    succeed(workplace, output, "--max_steps", 10)
    part = output / "checkpoints" / "step_0000011.part"
    part.mkdir()
    (part / "model.safetensors").write_bytes(b"half")
    succeed(workplace, output, "--resume")
    names = sorted(path.name for path in (output / "checkpoints").iterdir())
    assert names == ["step_0000015", "step_0000020"]
    model = PatForSemanticSegmentation.from_pretrained(output)
    assert all(float(codebook.num_updates) == 20 for codebook in model.pat.codebooks)


def test_a_full_disk_leaves_the_last_good_checkpoint(workplace, undisturbed, tmp_path):
    output = tmp_path / "run"
    succeed(workplace, output, "--max_steps", 5)
    saved = load_file(output / "checkpoints" / "step_0000005" / "model.safetensors")
    limit = 20_000  # bytes a file: less than the optimizer's state needs
    line = refused(
        workplace, output, "--resume", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    )
    assert line.startswith("error: the checkpoint of step 10 can't be written") and "step_0000005" in line
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step_0000005"]
    kept = load_file(output / "checkpoints" / "step_0000005" / "model.safetensors")
    assert all(torch.equal(kept[name], saved[name]) for name in saved)
    succeed(workplace, output, "--resume")
    assert float(PatForSemanticSegmentation.from_pretrained(output).pat.codebooks[0].num_updates) == 20


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


@pytest.fixture
def mistake(workplace, tmp_path, monkeypatch, capsys):
    """Function that runs the script in this process and returns the line that it ends with."""

    def run(*arguments, output=tmp_path):
        monkeypatch.setattr(sys, "argv", command(workplace, output, *arguments)[1:])
        with pytest.raises(SystemExit) as ended:
            run_script(main)
        told = capsys.readouterr().err if isinstance(ended.value.code, int) else ended.value.code
        return told.strip().splitlines()[-1]

    return run


def test_mistakes_end_in_one_line(mistake, undisturbed, tmp_path):
    assert "add --resume" in mistake(output=undisturbed)
    assert "images a step" in mistake("--resume", "--batch_size", 3, output=undisturbed)
    assert "no data folder" in mistake("--train", "nowhere:train")
    assert "did you mean 'learning_rate'" in mistake("--learning_rat", 1)
    assert "'hiden_size'" in mistake("--model", '{"hiden_size": 3}')
    assert "no JSON" in mistake("--model", "{3")
    assert "one entry per level" in mistake("--model", '{"level_strides": [1]}')
    assert "no folder with a CLIP" in mistake("--clip", tmp_path)
    typo = tmp_path / "typo.yaml"
    typo.write_text("learning_rat: 1\n")
    assert "did you mean 'learning_rate'" in mistake("--config", typo)
    typo.write_text("learning_rate: [1\n")
    assert "no YAML" in mistake("--config", typo)
    assert "no file" in mistake("--config", tmp_path / "nothing.yaml")
