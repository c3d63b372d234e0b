"""The zero-shot pipeline through its public interface."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from transformers_pat.pipeline_pat import PatSegmentationPipeline

from ..support.tiny import photo, tiny_model, tiny_processor

LABELS = ["road", "car", "tree;bush", "sky"]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def pipe(model):
    return PatSegmentationPipeline(model=model, processor=tiny_processor(), device="cpu")


def same(one, other):
    if len(one) != len(other):
        return False
    return all(
        a["label"] == b["label"]
        and abs(a["score"] - b["score"]) < 1e-4
        and (np.array(a["mask"]) != np.array(b["mask"])).mean() < 1e-3
        for a, b in zip(one, other, strict=True)
    )


def test_result(pipe):
    image = photo(90, 130)
    result = pipe(image, candidate_labels=LABELS)
    assert result
    masks = np.stack([np.array(entry["mask"]) for entry in result])
    assert masks.shape[1:] == (90, 130)
    assert set(np.unique(masks)) <= {0, 255}
    assert ((masks == 255).sum(axis=0) == 1).all()
    areas = (masks == 255).sum(axis=(1, 2))
    assert (areas > 0).all()
    assert (np.diff(areas) <= 0).all()
    for entry in result:
        assert entry["label"] in LABELS
        assert entry["mask"].mode == "L"
        assert isinstance(entry["score"], float)
        assert 0 < entry["score"] <= 1


def test_agrees_with_the_model(pipe, model):
    image = photo()
    inputs = pipe.processor(images=image, text=LABELS, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    (labels,) = pipe.processor.post_process_semantic_segmentation(outputs, [(96, 128)])
    for entry in pipe(image, candidate_labels=LABELS):
        mask = labels.numpy() == LABELS.index(entry["label"])
        assert (mask != (np.array(entry["mask"]) == 255)).mean() < 1e-3


def test_ways_to_give_labels(pipe):
    image = photo()
    expected = pipe(image, candidate_labels=LABELS)
    assert same(pipe(image, candidate_labels="road, car, tree;bush, sky"), expected)
    assert same(pipe(image, LABELS), expected)
    assert same(pipe({"image": image, "candidate_labels": LABELS}), expected)
    at_construction = PatSegmentationPipeline(
        model=pipe.model, processor=pipe.processor, device="cpu", candidate_labels=LABELS
    )
    assert same(at_construction(image), expected)


def test_one_list_of_labels_per_photo(pipe):
    images = [photo(), photo(seed=1)]
    lists = [["road", "car"], ["sky", "grass", "dog"]]
    for batch_size in (1, 2):
        results = pipe(images, candidate_labels=lists, batch_size=batch_size)
        for result, image, labels in zip(results, images, lists, strict=True):
            assert same(result, pipe(image, candidate_labels=labels))
    with pytest.raises(ValueError, match="2 lists of candidate labels for 1 photos"):
        pipe(images[:1], candidate_labels=lists)
    with pytest.raises(ValueError, match="needs a list of photos"):
        pipe(images[0], candidate_labels=lists)


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_batches_of_different_shapes(pipe, batch_size):
    images = [photo(), photo(128, 64, seed=1), photo(seed=2), photo(1, 300), photo(128, 64, seed=3)]
    expected = pipe(images, candidate_labels=LABELS)
    assert len(expected) == 5
    results = pipe(images, candidate_labels=LABELS, batch_size=batch_size)
    assert all(same(*pair) for pair in zip(results, expected, strict=True))
    assert results[3][0]["mask"].size == (300, 1)


def test_kinds_of_input(pipe, tmp_path):
    image = photo()
    image.save(tmp_path / "photo.png")
    expected = pipe(image, candidate_labels=LABELS)
    assert same(pipe(str(tmp_path / "photo.png"), candidate_labels=LABELS), expected)
    assert same(pipe(tmp_path / "photo.png", candidate_labels=LABELS), expected)
    assert same(pipe((image, image), candidate_labels=LABELS)[1], expected)
    assert pipe([], candidate_labels=LABELS) == []
    stream = pipe((image for _ in range(3)), candidate_labels=LABELS, batch_size=2)
    assert [same(one, expected) for one in stream] == [True] * 3


def test_data_sets(pipe, tmp_path):
    datasets = pytest.importorskip("datasets")
    images = [photo(), photo(128, 64, seed=1)]
    expected = pipe(images, candidate_labels=LABELS)
    rows = datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": datasets.Image()}))
    for source in (rows, rows["image"], rows.to_iterable_dataset()):
        results = list(pipe(source, candidate_labels=LABELS, batch_size=2))
        assert [same(*pair) for pair in zip(results, expected, strict=True)] == [True, True]


def test_url(pipe, tmp_path):
    import functools
    import http.server
    import threading

    photo().save(tmp_path / "photo.png")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        result = pipe(f"{address}/photo.png", candidate_labels=LABELS, timeout=10)
        with pytest.raises(ValueError, match=r"cannot read the image http.*missing\.png"):
            pipe(f"{address}/missing.png", candidate_labels=LABELS, timeout=10)
        server.shutdown()
    assert same(result, pipe(photo(), candidate_labels=LABELS))


def test_background_by_probability(pipe):
    image = photo()
    plain = pipe(image, candidate_labels=LABELS)
    high = max(entry["score"] for entry in plain)
    result = pipe(image, candidate_labels=LABELS, background=0.999)
    assert [entry["label"] for entry in result] == ["background"]
    assert result[0]["score"] > 1 - high - 0.1
    assert same(pipe(image, candidate_labels=LABELS, background=1e-6), plain)


@torch.no_grad()
def test_learned_background(pipe, model):
    image = photo()
    pixel_values = pipe.preprocess(image, LABELS)["photos"][0]["pixel_values"]
    dense_embeds = model.pat.extract_features(pixel_values).dense_embeds
    similarities = dense_embeds @ model.get_text_embeds(LABELS, pipe.processor).T
    # Untrained, it is like nothing: it wins where every label is less than that.
    labels = [entry["label"] for entry in pipe(image, candidate_labels=LABELS, background="learned")]
    assert ("background" in labels) == bool((similarities.amax(-1) < 0).any())
    model.segmenter.background_embed.copy_(10 * dense_embeds.mean((0, 1, 2)))
    result = pipe(image, candidate_labels=LABELS, background="learned")
    model.segmenter.background_embed.zero_()
    assert [entry["label"] for entry in result] == ["background"]


def test_background_by_words(pipe):
    image = photo()
    everything = pipe(image, candidate_labels=[*LABELS, "wall", "floor"])
    result = pipe(image, candidate_labels=LABELS, background=["wall", "floor"])
    distractors = sum(np.array(entry["mask"]) == 255 for entry in everything if entry["label"] in ("wall", "floor"))
    found = [np.array(entry["mask"]) == 255 for entry in result if entry["label"] == "background"]
    assert np.array_equal(found[0] if found else np.zeros((96, 128)), distractors * np.ones((96, 128)))
    for entry in result:
        if entry["label"] != "background":
            assert any(same([entry], [other]) for other in everything)


def test_threshold_leaves_out_masks(pipe):
    image = photo()
    scores = sorted(entry["score"] for entry in pipe(image, candidate_labels=LABELS))
    assert len(pipe(image, candidate_labels=LABELS, threshold=scores[-1])) == 1
    assert pipe(image, candidate_labels=LABELS, threshold=1.0) == []


def test_templates(pipe):
    image = photo()
    other = tiny_processor("vild")
    expected = PatSegmentationPipeline(model=pipe.model, processor=other, device="cpu")(image, LABELS)
    assert same(pipe(image, LABELS, templates="vild"), expected)
    assert not same(pipe(image, LABELS), expected)


def test_baked_vocabulary():
    model, processor, image = tiny_model(), tiny_processor(), photo()
    pipe = PatSegmentationPipeline(model=model, processor=processor, device="cpu")
    with pytest.raises(ValueError, match="give candidate_labels"):
        pipe(image)
    words = ["road", "car", "sky"]
    model.set_vocabulary(words, processor)
    assert same(pipe(image), pipe(image, words))
    assert same(pipe(image, background=["wall"]), pipe(image, words, background=["wall"]))
    assert same(pipe([image, image], batch_size=2)[1], pipe(image))


def test_windows(pipe):
    image = photo(100, 200)
    result = pipe(image, LABELS, window_size=64, window_stride=32)
    assert result[0]["mask"].size == (200, 100)
    assert same(pipe(image, LABELS, window_size=64), result)
    item = pipe.preprocess(image, LABELS, window_size=64)["photos"][0]
    assert item["pixel_values"].shape[-2:] == (96, 208)  # the photo's own size, in whole patches
    assert pipe.preprocess(photo(20, 30), LABELS, window_size=64)["photos"][0]["pixel_values"].shape[-2:] == (64, 96)
    assert pipe(photo(1, 300), LABELS, window_size=64)[0]["mask"].size == (300, 1)


def test_windows_enlarge_a_photo_as_the_processor_would(pipe, model):
    processor = tiny_processor(size={"shortest_edge": 448})
    one = PatSegmentationPipeline(model=model, processor=processor)
    item = one.preprocess(photo(50, 100), LABELS, window_size=64)["photos"][0]
    expected = processor(images=photo(50, 100), return_tensors="pt")["pixel_values"].shape
    assert item["pixel_values"].shape == expected == (1, 3, 448, 896)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"candidate_labels": []}, "empty"),
        ({"candidate_labels": ""}, "label 0 is empty"),
        ({"candidate_labels": ["road", "Road"]}, "given twice"),
        ({"candidate_labels": ["word " * 300]}, "shorten"),
        ({"candidate_labels": LABELS, "threshold": 2}, "threshold must be a number between"),
        ({"candidate_labels": LABELS, "threshold": "0.5"}, "threshold must be a number between"),
        ({"candidate_labels": LABELS, "window_size": 64.0}, "window_size must be a whole number"),
        ({"candidate_labels": LABELS, "background": 1.5}, "background must be"),
        ({"candidate_labels": LABELS, "background": "wall"}, "background must be None, 'learned', a number"),
        ({"candidate_labels": LABELS, "background": []}, "empty"),
        ({"candidate_labels": LABELS, "background": ["Car"]}, "given twice"),
        ({"candidate_labels": [*LABELS, "background"], "background": 0.5}, "both a candidate label"),
        ({"candidate_labels": LABELS, "templates": "vlid"}, "unknown prompt templates"),
        ({"candidate_labels": LABELS, "window_stride": 32}, "needs a window_size"),
    ],
)
def test_wrong_parameters(pipe, kwargs, message):
    with pytest.raises(ValueError, match=message):
        pipe(photo(), **kwargs)


def test_wrong_photos(pipe, tmp_path):
    (tmp_path / "empty.png").touch()
    for name in ("empty.png", "missing.png"):
        with pytest.raises(ValueError, match=rf"^cannot read the image [^\n]*{name}[^\n]*$"):
            pipe(str(tmp_path / name), candidate_labels=LABELS)
    with pytest.raises(ValueError, match="an array must be"):
        pipe(np.zeros((4, 4, 3)), candidate_labels=LABELS)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16"])
def test_photo_files_of_any_mode(pipe, tmp_path, mode):
    image = Image.fromarray(np.full((40, 60), 40000, np.uint16)) if mode == "I;16" else photo(40, 60).convert(mode)
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    image.save(path)
    assert pipe(str(path), candidate_labels=LABELS)[0]["mask"].size == (60, 40)


def test_save_and_load_by_task(model, tmp_path):
    pipe = PatSegmentationPipeline(model=model, processor=tiny_processor("vild"), device="cpu")
    pipe.save_pretrained(tmp_path)
    loaded = pipeline(
        model=str(tmp_path), pipeline_class=PatSegmentationPipeline, task="image-segmentation", device=-1
    )
    assert loaded.processor.prompt_templates == "vild"
    assert same(loaded(photo(), LABELS), pipe(photo(), LABELS))


def test_from_parts(model):
    processor = tiny_processor()
    pipe = PatSegmentationPipeline(
        model=model, image_processor=processor.image_processor, tokenizer=processor.tokenizer, device="cpu"
    )
    assert pipe(photo(), LABELS)
    with pytest.raises(ValueError, match="pass processor="):
        PatSegmentationPipeline(model=model, device="cpu")


def test_stock_pipeline_with_a_baked_vocabulary():
    model, processor = tiny_model(), tiny_processor()
    model.set_vocabulary(["road", "car", "sky"], processor)
    stock = pipeline("image-segmentation", model=model, image_processor=processor.image_processor, device=-1)
    result = stock(photo(90, 130))
    assert {entry["label"] for entry in result} <= {"road", "car", "sky"}
    assert result[0]["mask"].size == (130, 90)
