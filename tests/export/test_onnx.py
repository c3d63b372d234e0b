"""Exported graphs against PyTorch, through the calls that users make."""

import base64
import io
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastapi.testclient import TestClient
from PIL import Image

from transformers_pat import PatSegmentationPipeline
from transformers_pat.export import export_onnx
from transformers_pat.onnx import OnnxSegmenter
from transformers_pat.reconstruction import to_image

from ..support.tiny import random_images

SERVICE = Path(__file__).parents[2] / "examples" / "serve" / "app.py"
LABELS = ["sky", "car;lorry", "tree"]


@pytest.fixture(scope="module")
def runtime(exported):
    return OnnxSegmenter(exported, num_threads=1)


@pytest.fixture
def photo():
    blocks = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((98, 70), Image.Resampling.BICUBIC)


@torch.no_grad()
@pytest.mark.parametrize("num_labels", [1, 5, 40])  # 40 are more than are refined
@pytest.mark.parametrize("grid", [(1, 1), (3, 8), (6, 5)])
def test_graphs_equal_torch(trained_segmenter, runtime, grid, num_labels):
    model = trained_segmenter.eval()
    patch = model.config.vision_config.patch_size
    pixel_values = random_images(2, *(patch * side for side in grid))
    class_embeds = F.normalize(torch.randn(num_labels, model.config.projection_dim), dim=-1)
    expected = model(pixel_values, text_embeds=class_embeds)
    dense_embeds, codes = runtime.read(pixel_values.numpy())
    logits = runtime.segment(dense_embeds, codes, class_embeds.numpy())
    np.testing.assert_allclose(logits, expected.logits, atol=1e-4)
    assert all(np.array_equal(found, level) for found, level in zip(codes, expected.codes, strict=True))
    from_codes = runtime.segment_codes(codes, class_embeds.numpy())
    np.testing.assert_allclose(from_codes, model.segment_codes(codes, class_embeds), atol=1e-4)


@pytest.mark.parametrize(
    "options", [{}, {"background": "learned"}, {"background": 0.4}, {"background": ["road"]}, {"window_size": 32}]
)
def test_masks_are_the_pipelines(trained_segmenter, export_processor, runtime, photo, options):
    pipe = PatSegmentationPipeline(model=trained_segmenter.eval(), processor=export_processor)
    expected = pipe(photo, candidate_labels=LABELS, **options)
    found = runtime(photo, LABELS, **options)
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert (np.asarray(one["mask"]) == np.asarray(other["mask"])).mean() > 0.999


@torch.no_grad()
def test_codes_of_a_photo_are_segmented_and_decoded(trained_segmenter, export_processor, runtime, photo):
    codes = [level[0] for level in runtime.encode(photo)]
    size = (photo.height, photo.width)
    pipe = PatSegmentationPipeline(model=trained_segmenter.eval(), processor=export_processor)
    expected = pipe({"codes": codes, "size": size}, candidate_labels=LABELS)
    found = runtime({"codes": codes, "size": size}, "sky, car;lorry, tree")
    assert [one["label"] for one in found] == [one["label"] for one in expected]
    batch = [torch.tensor(level)[None] for level in codes]
    for num_levels in range(1, len(codes) + 1):
        pixels = trained_segmenter.pat.decode(batch, num_levels=num_levels)
        expected = to_image(pixels[0], export_processor)
        found = runtime.decode(codes, num_levels)
        assert np.abs(np.asarray(found, int) - np.asarray(expected, int)).max() <= 1
    with pytest.raises(ValueError, match="num_levels must be 1 to"):
        runtime.decode(codes, 0)


def test_the_service_segments_what_is_posted(exported, photo, monkeypatch):
    monkeypatch.setenv("PAT_MODEL", str(exported))
    service = runpy.run_path(str(SERVICE))
    client = TestClient(service["app"])
    sent = io.BytesIO()
    photo.save(sent, "PNG")
    answer = client.post("/segment", files={"photo": sent.getvalue()}, data={"labels": "sky, tree", "background": "1"})
    found = answer.json()["labels"]
    label_map = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["label_map"]))))
    assert label_map.shape == (photo.height, photo.width)
    assert {one["label"] for one in found} <= {"sky", "tree", "background"}
    assert [one["share"] for one in found] == [(label_map == index).mean() for index in range(len(found))]
    refused = client.post("/segment", files={"photo": b"no photo"}, data={"labels": "sky, tree"})
    assert refused.status_code == 400 and "cannot read the image" in refused.json()["detail"]
    assert client.post("/segment", files={"photo": sent.getvalue()}, data={"labels": ","}).status_code == 400
    too_large = client.post("/segment", files={"photo": b"0" * 20_000_001}, data={"labels": "sky"})
    assert too_large.status_code == 413


@pytest.mark.parametrize("int8", ["dynamic", "static"])
def test_int8_is_smaller_and_nearly_the_same(trained_segmenter, export_processor, runtime, photo, tmp_path, int8):
    photos = [photo] if int8 == "static" else []
    export_onnx(trained_segmenter, export_processor, tmp_path / "int8", int8=int8, photos=photos)
    small = OnnxSegmenter(tmp_path / "int8", num_threads=1)
    for graph in ("image", "segment", "text"):
        sizes = [(one.folder / f"{graph}.onnx").stat().st_size for one in (small, runtime)]
        assert sizes[0] < sizes[1]
    class_embeds = runtime.get_class_embeds(LABELS)
    assert (small.get_class_embeds(LABELS) * class_embeds).sum(1).min() > 0.98
    dense_embeds = runtime.read(runtime.to_pixel_values(photo))[0]
    assert (small.read(runtime.to_pixel_values(photo))[0] * dense_embeds).sum(-1).mean() > 0.98


def test_static_int8_needs_photos(trained_segmenter, export_processor, tmp_path):
    with pytest.raises(ValueError, match="needs photos"):
        export_onnx(trained_segmenter, export_processor, tmp_path / "int8", int8="static")
    assert not list(tmp_path.iterdir())


def test_neither_torch_nor_transformers_is_imported(exported, photo, tmp_path):
    photo.save(tmp_path / "photo.png")
    code = """
import sys
from transformers_pat.onnx import OnnxSegmenter
masks = OnnxSegmenter(sys.argv[1])(sys.argv[2], ["sky", "car"], background="learned")
assert masks, masks
assert not {"torch", "transformers"} & set(sys.modules), {'torch', 'transformers'} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, exported, tmp_path / "photo.png"], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.jpg", LABELS), "cannot read the image missing.jpg"),
        ((Image.new("RGB", (20, 20)), []), "the list of labels is empty"),
        ((Image.new("RGB", (20, 20)), ["background"], 0.5), "is both a label and what background= adds"),
        ((Image.new("RGB", (20, 20)), ["word " * 99]), "shorten the label"),
        (({"codes": [[[0]]], "size": (8, 8)}, LABELS), "expected codes of"),
        ((Image.new("RGB", (20, 20)), LABELS, None, None, 33), "multiple of"),
        (({"codes": [], "size": (8, 8)}, LABELS, None, None, 32), "windows need the photo"),
    ],
)
def test_mistakes_are_named_in_one_line(runtime, arguments, message):
    with pytest.raises(ValueError, match=message.replace("=", ".")) as error:
        runtime(*arguments)
    assert "\n" not in str(error.value)


def test_a_damaged_graph_is_named(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "copy")
    (tmp_path / "copy" / "image.onnx").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"image\.onnx is missing or damaged"):
        OnnxSegmenter(tmp_path / "copy")


def test_other_folders_are_refused(trained_segmenter, export_processor, tmp_path):
    with pytest.raises(ValueError, match=r"is no exported checkpoint.*transformers-pat export"):
        OnnxSegmenter(tmp_path)
    (tmp_path / "pat_onnx.json").write_text('{"format_version": 9}')
    with pytest.raises(ValueError, match="export the checkpoint again"):
        OnnxSegmenter(tmp_path)
    with pytest.raises(ValueError, match="choose a new folder"):
        export_onnx(trained_segmenter, export_processor, tmp_path)
    assert (tmp_path / "pat_onnx.json").is_file()
