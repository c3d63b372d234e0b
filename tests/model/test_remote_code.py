"""A saved folder, or a Hub repository, is enough: no need for this package to be installed where it is loaded."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import transformers_pat
from transformers_pat.hub_pat import card_template
from transformers_pat.processing_pat import PatProcessor

from ..support.stub_hub import StubHub

LABELS = ["road", "tree;bush", "car"]

# Runs first in each process: this package is out of reach, installed or not.
WITHOUT_PACKAGE = """
import sys
import torch
from PIL import Image

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "transformers_pat":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Hidden())
source, photo, result = sys.argv[1:]
"""

LOAD_EVERYTHING = """
from transformers import (
    AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation, AutoProcessor, pipeline,
)

image = Image.open(photo)
remote = {"trust_remote_code": True}
config = AutoConfig.from_pretrained(source, **remote)
model = AutoModelForSemanticSegmentation.from_pretrained(source, **remote)
tokenizer_model = AutoModel.from_pretrained(source, **remote)
processor = AutoProcessor.from_pretrained(source, **remote)
image_processor = AutoImageProcessor.from_pretrained(source, **remote)

inputs = processor(images=[image], text=["road", "tree;bush", "car"], return_tensors="pt")
with torch.no_grad():
    outputs = model(**inputs)
    reconstruction = tokenizer_model(inputs["pixel_values"]).reconstruction
    baked = model(inputs["pixel_values"]).logits
assert "transformers_pat" not in sys.modules
torch.save({
    "classes": [type(x).__name__ for x in (config, model, tokenizer_model, processor)],
    "modules": [type(x).__module__.split(".")[0] for x in (config, model, processor, image_processor)],
    "frozen": not any(p.requires_grad for p in model.text_model.parameters()),
    "logits": outputs.logits,
    "baked": baked,
    "reconstruction": reconstruction,
    "pixel_values": image_processor([image], return_tensors="pt")["pixel_values"],
    "map": processor.post_process_semantic_segmentation(outputs, target_sizes=[image.size[::-1]])[0],
}, result)
"""

RUN_PIPELINES = """
from transformers import pipeline

image = Image.open(photo)
stock = pipeline("image-segmentation", model=source, trust_remote_code=True)
found = {"stock": [(part["label"], part["mask"].tobytes()) for part in stock(image)]}
if "zero-shot" in result:
    asked = pipeline("zero-shot-image-segmentation", model=source, trust_remote_code=True)
    parts = asked(image, candidate_labels=["sky", "car"])
    found["zero-shot"] = [(part["label"], part["mask"].tobytes()) for part in parts]
assert "transformers_pat" not in sys.modules
torch.save(found, result)
"""

LOAD_UNTRUSTED = """
from transformers import AutoConfig, AutoModel
for cls in (AutoConfig, AutoModel):
    try:
        cls.from_pretrained(source, trust_remote_code=False)
    except ValueError as error:
        assert "trust_remote_code" in str(error), error
    else:
        raise AssertionError("loaded untrusted code")
torch.save("refused", result)
"""

PUSH = """
import sys
from transformers_pat import PatForSemanticSegmentation, PatProcessor
folder, repo = sys.argv[1:]
PatForSemanticSegmentation.from_pretrained(folder).push_to_hub(repo)
PatProcessor.from_pretrained(folder).push_to_hub(repo)
PatForSemanticSegmentation.from_pretrained(folder).push_to_hub(repo + "-small", save_clip=False)
"""


def run_python(code: str, *args, home: Path, **environment) -> None:
    """Run code in a fresh process with its own cache; fails with its output."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTEST_", "PYTHON"))}
    threads = str(torch.get_num_threads())  # results are compared bit for bit
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": threads, **environment}
    command = [sys.executable, "-c", code, *map(str, args)]
    done = subprocess.run(command, env=clean | environment, cwd=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def model(trained_segmenter, clip_folder):
    """A trained model with a baked vocabulary."""
    import copy

    model = copy.deepcopy(trained_segmenter)
    model.set_vocabulary(LABELS, PatProcessor.from_clip_pretrained(clip_folder))
    return model


@pytest.fixture(scope="module")
def processor(clip_folder):
    return PatProcessor.from_clip_pretrained(clip_folder, prompt_templates="vild")


@pytest.fixture(scope="module")
def folder(model, processor, tmp_path_factory):
    """What users share: model and processor saved into one folder."""
    folder = tmp_path_factory.mktemp("published")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A picture of coloured blocks, 50 by 70 pixels: not a whole number of patches."""
    blocks = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(blocks).resize((70, 50), Image.Resampling.BICUBIC).save(path)
    return path


def check_result(result, model, processor, photo) -> None:
    image = Image.open(photo)
    inputs = processor(images=[image], text=LABELS, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
        baked = model(inputs["pixel_values"]).logits
        reconstruction = model.pat(inputs["pixel_values"]).reconstruction
    assert result["classes"] == ["PatConfig", "PatForSemanticSegmentation", "PatModel", "PatProcessor"]
    assert set(result["modules"]) == {"transformers_modules"}
    assert result["frozen"]
    assert torch.equal(result["pixel_values"], inputs["pixel_values"])
    assert torch.equal(result["logits"], outputs.logits)
    assert torch.equal(result["baked"], baked)
    assert torch.equal(result["reconstruction"], reconstruction)
    expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[(50, 70)])[0]
    assert torch.equal(result["map"], expected)


def test_folder_loads_without_the_package(folder, model, processor, photo, tmp_path):
    run_python(WITHOUT_PACKAGE + LOAD_EVERYTHING, folder, photo, tmp_path / "result.pt", home=tmp_path)
    check_result(torch.load(tmp_path / "result.pt"), model, processor, photo)


def test_pipelines_run_without_the_package(folder, model, processor, photo, tmp_path):
    from transformers import pipeline

    result = tmp_path / ("zero-shot.pt" if (folder / "pipeline_pat.py").exists() else "stock.pt")
    run_python(WITHOUT_PACKAGE + RUN_PIPELINES, folder, photo, result, home=tmp_path)
    found = torch.load(result)
    here = pipeline("image-segmentation", model=model, image_processor=processor.image_processor)
    assert_same_parts(found["stock"], here(Image.open(photo)))
    if "zero-shot" in found:
        here = pipeline("zero-shot-image-segmentation", model=str(folder), trust_remote_code=True)
        assert_same_parts(found["zero-shot"], here(Image.open(photo), candidate_labels=["sky", "car"]))


def assert_same_parts(found, expected) -> None:
    assert [label for label, _ in found] == [part["label"] for part in expected] != []
    for (_, mask), part in zip(found, expected, strict=True):
        assert mask == part["mask"].tobytes()


def test_code_does_not_run_untrusted(folder, photo, tmp_path):
    run_python(WITHOUT_PACKAGE + LOAD_UNTRUSTED, folder, photo, tmp_path / "result.pt", home=tmp_path)
    assert torch.load(tmp_path / "result.pt") == "refused"


def test_folder_holds_all_the_code(folder):
    package = Path(transformers_pat.__file__).parent
    copied = {path.name for path in folder.glob("*.py")}
    assert copied == {path.name for path in package.glob("*_pat.py")}
    for name in copied:
        assert (folder / name).read_bytes() == (package / name).read_bytes()


def test_copied_code_is_flat():
    """Remote code may import its neighbours with one dot and nothing else of ours."""
    for path in Path(transformers_pat.__file__).parent.glob("*_pat.py"):
        text = path.read_text()
        assert not re.search(r"^\s*(from|import) transformers_pat", text, re.MULTILINE), path
        for module in re.findall(r"^\s*from \.(\S*) import", text, re.MULTILINE):
            assert module.endswith("_pat") and "." not in module, f"{path.name} imports .{module}"


@pytest.fixture(scope="module")
def hub(folder, tmp_path_factory):
    """A stub Hub to which the folder's model and processor were pushed as user/pat-tiny."""
    with StubHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        source = str(Path(transformers_pat.__file__).parents[1])
        home = tmp_path_factory.mktemp("pusher")
        run_python(PUSH, folder, "user/pat-tiny", home=home, PYTHONPATH=source, **hub.environment)
        yield hub
        hub.shutdown()
        thread.join()


def test_push_writes_everything(hub, folder):
    pushed = hub.repos["user/pat-tiny"]
    local = {path.name for path in folder.iterdir()}
    assert local <= set(pushed)
    assert pushed["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert not [name for name in pushed if name.endswith((".bin", ".pt", ".pkl"))]


def test_push_without_clip(hub, model, tmp_path):
    from safetensors.torch import load

    weights = load(hub.repos["user/pat-tiny-small"]["model.safetensors"])
    assert set(weights) == {key for key in model.state_dict() if not model.is_clip_key(key)}


def test_push_then_load_without_the_package(hub, model, processor, photo, tmp_path):
    result = tmp_path / "result.pt"
    run_python(WITHOUT_PACKAGE + LOAD_EVERYTHING, "user/pat-tiny", photo, result, home=tmp_path, **hub.environment)
    check_result(torch.load(result), model, processor, photo)


@pytest.mark.skipif(card_template() is None, reason="no model_card.md beside this package")
def test_push_writes_the_card(hub, model):
    from huggingface_hub import ModelCard

    text = hub.repos["user/pat-tiny"]["README.md"].decode()
    assert not re.search(r"\$\{?\w|More Information Needed|\bTODO\b|\{\{", text)
    assert "user/pat-tiny" in text
    assert f"{model.num_trainable_parameters / 1e6:.2f}" in text
    data = ModelCard(text).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "image-segmentation"
