"""The smaller example scripts, run as a user runs them, and what training is able to do at all."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load

from transformers_pat import PAT_NANO, PatForSemanticSegmentation, PatProcessor

from .support.data import write_set
from .support.stub_hub import StubHub
from .support.tiny import photo, save_tiny_checkpoint
from .support.training import command as train_command

EXAMPLES = Path(__file__).parents[1] / "examples"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def run(script, *arguments):
    return subprocess.run(
        [sys.executable, EXAMPLES / script, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT
    )


@pytest.fixture
def data(tmp_path):
    mask = np.zeros((72, 80), dtype=np.uint8)
    mask[:, 40:] = 1
    return write_set(tmp_path / "toy", {0: "road", 1: "car"}, [mask] * 4)


def test_trainer_fine_tunes_a_checkpoint(data, tmp_path):
    save_tiny_checkpoint(tmp_path / "start")
    finished = run(
        *("train_with_trainer.py", "--data", f"{data}:train", "--validation", f"{data}:train"),
        *("--model", tmp_path / "start", "--output_dir", tmp_path / "run", "--crop_size", 64, "--max_steps", 3),
        *("--per_device_train_batch_size", 2, "--gradient_accumulation_steps", 2, "--report_to", "none"),
    )
    assert finished.returncode == 0, finished.stderr
    assert "mean_iou" in finished.stdout
    before = PatForSemanticSegmentation.from_pretrained(tmp_path / "start").state_dict()
    model = PatForSemanticSegmentation.from_pretrained(tmp_path / "run")
    assert model.config.id2label == {0: "road", 1: "car"}
    changed = {name for name, value in model.state_dict().items() if name in before and not value.equal(before[name])}
    assert "pat.pixel_head.weight" in changed and not any(model.is_clip_key(name) for name in changed)
    assert all(float(codebook.num_updates) == 6 for codebook in model.pat.codebooks)


def test_segment_saves_a_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finished = run("segment.py", EXAMPLES / "photos" / "cat.jpg", "cat", "tree;bush")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("cat: ") and (tmp_path / "segmented.png").is_file()


def test_tokens_tells_usage_and_psnr(data):
    finished = run("tokens.py", "--data", f"{data}:train")
    assert finished.returncode == 0, finished.stderr
    sizes = [row.split("│")[2].strip() for row in finished.stdout.splitlines() if row.startswith("│")]
    assert "perplexity" in finished.stdout and sizes == ["512", "1024", "1024"]
    wrong = run("tokens.py", "--data", f"{data}:nosuch")
    assert wrong.returncode == 1 and wrong.stderr.strip().splitlines()[-1].startswith("error: ")


def test_a_trained_model_is_pushed_to_the_hub(workplace, tmp_path):
    with StubHub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        environment = {**ENVIRONMENT, **hub.environment, "HF_HOME": str(tmp_path)}
        arguments = train_command(workplace, tmp_path / "run", "--max_steps", 2, "--lora_rank", 1)
        finished = subprocess.run(
            [*arguments, "--push_to_hub", "user/pat-tiny"], capture_output=True, text=True, env=environment
        )
        assert finished.returncode == 0, finished.stderr[-3000:]
        files = hub.repos["user/pat-tiny"]
        hub.shutdown()
    expected = {"config.json", "model.safetensors", "processor_config.json", "README.md", "modeling_pat.py"}
    assert expected | {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= set(files)
    assert json.loads(files["config.json"])["model_type"] == "pat"
    assert not any("lora" in name for name in load(files["model.safetensors"]))


def blobs(count, size, seed):
    """Pictures of coloured discs on coloured grounds, and which of five colours is where."""
    rng = np.random.default_rng(seed)
    colors = np.array([[200, 60, 50], [60, 170, 70], [60, 90, 210], [220, 200, 70], [150, 70, 170]])
    rows, columns = np.mgrid[:size, :size]
    for _ in range(count):
        labels = np.full((size, size), rng.integers(5))
        for _ in range(4):
            (top, left), radius = rng.integers(0, size, 2), rng.integers(size // 6, size // 3)
            labels[(rows - top) ** 2 + (columns - left) ** 2 < radius**2] = rng.integers(5)
        picture = colors[labels] + rng.normal(0, 12, (size, size, 3))
        yield Image.fromarray(picture.clip(0, 255).astype(np.uint8)), labels


def test_one_batch_can_be_learnt_by_heart():
    """8 pictures to 95 % pixel accuracy within 300 steps, by pat-nano's PAT from random initialisation."""
    trained = PatForSemanticSegmentation.from_pretrained(PAT_NANO)
    processor = PatProcessor.from_pretrained(PAT_NANO)
    torch.manual_seed(0)
    model = PatForSemanticSegmentation(trained.config)
    clip = {name: value for name, value in trained.state_dict().items() if model.is_clip_key(name)}
    assert not model.load_state_dict(clip, strict=False).unexpected_keys
    images, labels = zip(*blobs(8, 96, seed=0), strict=True)
    image_size = {"shortest_edge": 96, "longest_edge": 96}
    pixel_values = processor.image_processor(images=list(images), size=image_size, return_tensors="pt").pixel_values
    labels = torch.from_numpy(np.stack(labels))
    text_embeds = trained.get_text_embeds(["cow", "tree", "sky", "sand", "flower"], processor)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    accuracy, steps = 0.0, 0
    while accuracy < 0.95 and steps < 300:
        model.train()
        for _ in range(20):
            model(pixel_values=pixel_values, text_embeds=text_embeds, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            steps += 1
        with torch.no_grad():
            logits = model.eval()(pixel_values=pixel_values, text_embeds=text_embeds).logits
        maps = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear").argmax(1)
        accuracy = (maps == labels).float().mean().item()
    assert accuracy >= 0.95, f"{accuracy:.3f} after {steps} steps"


def test_a_language_model_learns_an_archive(tmp_path):
    checkpoint = tmp_path / "checkpoint"
    save_tiny_checkpoint(checkpoint)
    (tmp_path / "photos").mkdir()
    for number in range(6):
        photo(seed=number).save(tmp_path / "photos" / f"{number}.png")
    command = ["tokenize", tmp_path / "photos", "--output", tmp_path / "archive", "--model", checkpoint]
    subprocess.run([sys.executable, "-m", "transformers_pat.cli", *map(str, command)], check=True, env=ENVIRONMENT)
    options = ["--model", checkpoint, "--steps", 2, "--output", tmp_path / "dreams.png"]
    result = subprocess.run(
        [sys.executable, EXAMPLES / "train_on_tokens.py", tmp_path / "archive", *map(str, options)],
        capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with Image.open(tmp_path / "dreams.png") as picture:
        assert picture.width > 4 * 64
