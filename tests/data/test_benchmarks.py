"""The benchmarks' readers and `transformers-pat check-data`, on miniatures of the official layouts."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from typer.testing import CliRunner

from transformers_pat.cli import check_data
from transformers_pat.data.benchmark import read_class_list
from transformers_pat.data.catalogue import BENCHMARKS, open_benchmark
from transformers_pat.data.source import DataSource

from ..support.data import SIZE, stripes


def write_photo(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def write_png(path, mask, palette=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette([channel for index in range(256) for channel in (index, 255 - index, 7)])
    image.save(path)


def write_ade20k_150(root, ids=(0, 1, 150)):
    for folder, prefix in (("training", "ADE_train"), ("validation", "ADE_val")):
        for index in (1, 2):
            name = f"{prefix}_{index:08d}"
            write_photo(root / "ADEChallengeData2016" / "images" / folder / f"{name}.jpg")
            write_png(root / "ADEChallengeData2016" / "annotations" / folder / f"{name}.png", stripes(*ids))


def write_ade20k_847(root, ids=(0, 2978, 312, 5000), size=SIZE):
    for folder, scene, name in (
        ("training", "urban/street", "ADE_train_00000001"),
        ("validation", "urban/street", "ADE_val_00000001"),
        ("validation", "home_or_hotel/bedroom", "ADE_val_00000002"),
    ):
        path = root / "ADE20K_2021_17_01" / "images" / "ADE" / folder / scene
        ids_of_pixels = stripes(*ids, size=size, dtype=np.uint16)
        instances = np.full_like(ids_of_pixels, 200)
        seg = np.stack([ids_of_pixels // 256 * 10, ids_of_pixels % 256, instances], axis=-1).astype(np.uint8)
        write_photo(path / f"{name}.jpg", size)
        write_png(path / f"{name}_seg.png", seg)
        write_png(path / f"{name}_parts_1.png", seg)
        write_png(path / name / f"instance_000_{name}.png", seg[..., 0])


def write_pascal_context(root, ids=(0, 1, 2, 255, 397, 459)):
    voc = root / "VOCdevkit" / "VOC2010"
    for split, names in (("train", ["2008_000002"]), ("val", ["2008_000003", "2010_006086"])):
        (voc / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
        (voc / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        (voc / "trainval").mkdir(exist_ok=True)
        for name in names:
            write_photo(voc / "JPEGImages" / f"{name}.jpg")
            label_map = {"LabelMap": stripes(*ids, dtype=np.uint16)}
            savemat(voc / "trainval" / f"{name}.mat", label_map, do_compression=True)


def write_pascal_voc(root, ids=(0, 1, 20, 255)):
    voc = root / "VOCdevkit" / "VOC2012"
    for split, names in (("train", ["2007_000032"]), ("val", ["2007_000033", "2007_000042"])):
        (voc / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (voc / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
        for name in names:
            write_photo(voc / "JPEGImages" / f"{name}.jpg")
            write_png(voc / "SegmentationClass" / f"{name}.png", stripes(*ids), palette=True)
    write_photo(voc / "JPEGImages" / "2012_004331.jpg")  # most photos have no mask


def write_coco_stuff(root, ids=(0, 12, 181, 255)):
    for folder in ("train2017", "val2017"):
        for name in ("000000000139", "000000000285"):
            write_photo(root / "images" / folder / f"{name}.jpg")
            write_png(root / "annotations" / folder / f"{name}.png", stripes(*ids))


WRITERS = {
    "ade20k_150": write_ade20k_150,
    "ade20k_847": write_ade20k_847,
    "pascal_context_59": write_pascal_context,
    "pascal_context_459": write_pascal_context,
    "pascal_voc_20": write_pascal_voc,
    "pascal_voc_20b": write_pascal_voc,
    "coco_stuff_171": write_coco_stuff,
}

# The classes that the miniature's stripes stand for, left to right; None counts nowhere.
EXPECTED = {
    "ade20k_150": (150, [None, "wall", "flag"]),
    "ade20k_847": (847, [None, "wall", "building;edifice", None]),
    "pascal_context_59": (59, [None, None, "aeroplane", None, "diningtable", None]),
    "pascal_context_459": (459, [None, "accordion", "aeroplane", "money", "table", "wool"]),
    "pascal_voc_20": (20, [None, "aeroplane", "tv", None]),
    "pascal_voc_20b": (21, ["background", "aeroplane", "tv", None]),
    "coco_stuff_171": (171, ["person", "stop sign", "wood", None]),
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_stripes_get_the_labels_of_their_classes(name, tmp_path):
    WRITERS[name](tmp_path)
    count, stripe_names = EXPECTED[name]
    dataset = open_benchmark(name, tmp_path)
    assert len(dataset) == 2 and dataset.missing == []
    assert len(dataset.names) == len(set(dataset.names)) == count
    for sample in dataset:
        assert sample.image.size == SIZE and sample.image.mode == "RGB"
        assert sample.labels.shape == SIZE[::-1] and sample.labels.dtype == np.int64
        found = [dataset.names[i] if i != dataset.ignore_index else None for i in sample.labels[4]]
        assert found == [stripe_names[i * len(stripe_names) // SIZE[0]] for i in range(SIZE[0])]
        assert sample.file_name.endswith(".jpg")
    assert len(open_benchmark(name, tmp_path, "train")) in (1, 2)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_class_lists_are_complete(name):
    rows = read_class_list(BENCHMARKS[name].classes)
    assert [int(row["index"]) for row in rows] == list(range(len(rows)))
    ids = [int(row["source_id"]) for row in rows]
    assert len(set(ids)) == len(ids) and BENCHMARKS[name].ignore_index not in ids


def test_sixteen_bit_benchmarks_ignore_65535_and_the_others_255():
    wide = {name for name, benchmark in BENCHMARKS.items() if benchmark.ignore_index == 65535}
    assert wide == {"ade20k_847", "pascal_context_459"}
    assert {BENCHMARKS[name].ignore_index for name in BENCHMARKS.keys() - wide} == {255}


def test_ids_above_255_survive(tmp_path):
    write_pascal_context(tmp_path, ids=(300, 459))
    assert set(np.unique(open_benchmark("pascal_context_459", tmp_path)[0].labels)) == {299, 458}


def test_pas_20b_asks_with_59_words_and_scores_21_classes(tmp_path):
    write_pascal_voc(tmp_path)
    dataset = open_benchmark("pascal_voc_20b", tmp_path)
    assert len(dataset.prompts) == len(dataset.prompt_classes) == 59
    assert dataset.prompts[:2] == ["aeroplane", "bicycle"] and dataset.prompts[19] == "tvmonitor"
    assert dataset.prompt_classes == [*range(20), *[20] * 39]
    assert dataset.names[20] == "background"
    plain = open_benchmark("pascal_voc_20", tmp_path)
    assert plain.prompts == plain.names and plain.prompt_classes == list(range(20))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((700, 600), (597, 512)), ((600, 901), (512, 769)), ((513, 513), (512, 512)), ((900, 512), (900, 512))],
)
def test_ade20k_847_is_shrunk_to_a_short_side_of_512(tmp_path, size, expected):
    write_ade20k_847(tmp_path, ids=(2978, 312), size=size)
    sample = open_benchmark("ade20k_847", tmp_path)[0]
    assert sample.image.size == expected and sample.labels.shape == expected[::-1]
    # Nearest neighbour: no id that was not there, and the border where it was.
    assert set(np.unique(sample.labels)) == {0, 1}
    assert abs((sample.labels[0] == 0).mean() - 0.5) < 2 / expected[0]


def test_the_photo_is_shrunk_without_smoothing(tmp_path):
    write_ade20k_847(tmp_path, size=(1024, 1536))
    scenes = tmp_path / "ADE20K_2021_17_01" / "images" / "ADE" / "validation"
    (photo,) = scenes.rglob("ADE_val_00000002.jpg")
    full = np.array(Image.open(photo)).astype(float)
    sample = open_benchmark("ade20k_847", tmp_path)[0]
    halves = (full[0::2, 0::2] + full[0::2, 1::2] + full[1::2, 0::2] + full[1::2, 1::2]) / 4
    assert np.abs(np.array(sample.image) - halves).max() <= 1


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_missing_mask_is_an_error_or_left_out(name, tmp_path):
    WRITERS[name](tmp_path)
    dataset = open_benchmark(name, tmp_path)
    mask = dataset._path(dataset.benchmark.mask, dataset.stems[0])
    mask.unlink()
    with pytest.raises(ValueError, match=f"{mask.name}' is missing; see transformers-pat check-data {name} "):
        open_benchmark(name, tmp_path)
    lenient = open_benchmark(name, tmp_path, strict=False)
    assert lenient.stems == dataset.stems[1:] and len(lenient.missing) == 1 and mask.name in lenient.missing[0]


def test_what_is_not_there_is_said_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"no benchmark 'ade'; there are ade20k_150, .*coco_stuff_171"):
        open_benchmark("ade", tmp_path)
    with pytest.raises(ValueError, match="ADE20K-150 has no split 'test', only train, val"):
        open_benchmark("ade20k_150", tmp_path, "test")
    for name in BENCHMARKS:
        with pytest.raises(ValueError, match=f"is missing; see transformers-pat check-data {name} .* --split val"):
            open_benchmark(name, tmp_path, strict=False)
    (tmp_path / "ADEChallengeData2016" / "images" / "validation").mkdir(parents=True)
    with pytest.raises(ValueError, match="no photo with a mask in"):
        open_benchmark("ade20k_150", tmp_path, strict=False)


def test_damaged_masks_are_named(tmp_path):
    write_pascal_context(tmp_path)
    (tmp_path / "VOCdevkit" / "VOC2010" / "trainval" / "2008_000003.mat").write_bytes(b"no matrix")
    with pytest.raises(ValueError, match=r"2008_000003.jpg' can't be read"):
        open_benchmark("pascal_context_459", tmp_path)[0]
    write_ade20k_150(tmp_path, ids=(1, 151))
    with pytest.raises(ValueError, match=r"ADE_val_00000001.jpg' has class ids .* 151"):
        open_benchmark("ade20k_150", tmp_path)[0]
    write_ade20k_847(tmp_path)
    scene = tmp_path / "ADE20K_2021_17_01" / "images" / "ADE" / "validation" / "home_or_hotel" / "bedroom"
    write_png(scene / "ADE_val_00000002_seg.png", stripes(1, 2))
    with pytest.raises(ValueError, match="three channels"):
        open_benchmark("ade20k_847", tmp_path)[0]


def test_without_scipy_the_message_says_what_to_install(monkeypatch, tmp_path):
    write_pascal_context(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(ValueError, match="pip install scipy"):
        open_benchmark("pascal_context_59", tmp_path)[0]


def test_a_data_source_opens_a_benchmark(tmp_path):
    write_pascal_voc(tmp_path)
    source = DataSource(benchmark="pascal_voc_20b", root=str(tmp_path), split="val")
    assert len(source.open()) == 2 and source.name == "pascal_voc_20b val"
    with pytest.raises(ValueError, match="benchmark 'pascal_voc_20b' needs root"):
        DataSource(benchmark="pascal_voc_20b").open()


@pytest.fixture
def check_download(monkeypatch):
    """`transformers-pat check-data` in this process, with benchmarks that expect two photos."""
    for name, benchmark in BENCHMARKS.items():
        few = {split: (folder, 2) for split, (folder, _) in benchmark.splits.items()}
        monkeypatch.setitem(BENCHMARKS, name, replace(benchmark, splits=few))

    def run(*arguments):
        return CliRunner().invoke(check_data.app, [str(argument) for argument in arguments])

    return run


@pytest.mark.parametrize("name", BENCHMARKS)
def test_check_download_says_ready_or_what_is_missing(check_download, name, tmp_path):
    nothing = check_download(name, tmp_path)
    assert nothing.exit_code == 1 and not nothing.output.endswith("ready\n")
    for part in BENCHMARKS[name].downloads:
        assert part.where in nothing.output

    WRITERS[name](tmp_path)
    complete = check_download(name, tmp_path, "--all")
    assert complete.exit_code == 0, complete.output
    assert "2 of 2 photos with masks" in complete.output and complete.output.endswith("ready\n")

    dataset = open_benchmark(name, tmp_path)
    mask = dataset._path(dataset.benchmark.mask, dataset.stems[0])
    mask.write_bytes(b"damaged")
    damaged = check_download(name, tmp_path)
    assert damaged.exit_code == 1 and "can't be read" in damaged.output
    mask.unlink()
    incomplete = check_download(name, tmp_path)
    assert incomplete.exit_code == 1 and mask.name in incomplete.output
    assert "incomplete: 1 of 2 photos" in incomplete.output


def test_check_download_lists_the_benchmarks_and_refuses_others(check_download, tmp_path):
    listed = check_download("--list")
    assert listed.exit_code == 0 and all(name in listed.output for name in BENCHMARKS)
    for arguments, message in (
        (("ade", tmp_path), "no benchmark 'ade'"),
        (("ade20k_150",), "no such folder: ade20k_150; for a benchmark, give also the folder"),
        (("ade20k_150", tmp_path, "--split", "test"), "no split 'test'"),
    ):
        result = check_download(*arguments)
        assert isinstance(result.exception, ValueError) and message in str(result.exception)
