"""Folders as labelling tools write them, and the way back: segmentations as data sets that their own readers read."""

import json
import pickle

import cv2
import numpy as np
import pytest
import supervision
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO
from transformers.image_transforms import rgb_to_id

from transformers_pat.data import FolderDataset
from transformers_pat.data.annotation_writers import WRITERS, polygons
from transformers_pat.data.inspection import inspect_folder

from ..support.data import stripes, write_set

LABELS = ["sky", "tree", "background", "car"]
SIZE = (40, 30)


def save_photos(folder, count, ending="jpg"):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"p{index}.{ending}" for index in range(count)]
    for path in paths:
        Image.new("RGB", SIZE, (90, 120, 150)).save(path)
    return paths


@pytest.fixture
def label_map():
    """All labels, with a hole in the tree, a single pixel and a thin line."""
    ids = np.zeros(SIZE[::-1], dtype=np.int64)
    ids[10:25, 5:30] = 1
    ids[14:20, 10:20] = 2
    ids[16:18, 12:15] = 1
    ids[29, :] = 3
    ids[2, 2] = 3
    return ids


@pytest.fixture
def written(tmp_path, label_map):
    """Function that writes the label map, and its mirror image, in one format."""

    def write(name):
        writer = WRITERS[name](tmp_path / name, LABELS)
        for path, ids in zip(save_photos(tmp_path / "photos", 2), (label_map, label_map[:, ::-1]), strict=True):
            writer.add(path.stem, str(path), Image.open(path), ids)
        writer.close()
        return tmp_path / name

    return write


def test_coco_is_read_back_by_pycocotools(written, label_map):
    folder = written("coco")
    index = COCO(folder / "annotations" / "instances_default.json")
    names = {category["id"]: category["name"] for category in index.loadCats(index.getCatIds())}
    assert list(names.values()) == ["sky", "tree", "car"]
    read = np.full_like(label_map, LABELS.index("background"))
    for annotation in index.loadAnns(index.getAnnIds(imgIds=[1])):
        mask = index.annToMask(annotation).astype(bool)
        assert annotation["area"] == mask.sum()
        read[mask] = LABELS.index(names[annotation["category_id"]])
    assert (read == label_map).all()
    assert (folder / "images" / index.imgs[1]["file_name"]).is_file()


def test_coco_panoptic_is_read_back_as_transformers_reads_it(written, label_map):
    folder = written("coco-panoptic")
    content = json.loads((folder / "panoptic.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    first = content["annotations"][0]
    ids = rgb_to_id(np.asarray(Image.open(folder / "panoptic" / first["file_name"])))
    read = np.full_like(label_map, LABELS.index("background"))
    for segment in first["segments_info"]:
        mask = ids == segment["id"]
        assert segment["area"] == mask.sum()
        assert segment["bbox"] == rle.toBbox(rle.encode(np.asfortranarray(mask, dtype=np.uint8))).tolist()
        read[mask] = LABELS.index(names[segment["category_id"]])
    assert (read == label_map).all()


def test_voc_is_read_back_by_its_palette(written, label_map):
    folder = written("voc")
    image = Image.open(folder / "SegmentationClass" / "p0.png")
    ids = np.asarray(image)
    assert image.mode == "P"
    assert (np.where(label_map == 2, 0, label_map + 1) == ids).all()
    colors = dict(line.split(":")[:2] for line in (folder / "labelmap.txt").read_text().splitlines())
    assert list(colors) == ["background", "sky", "tree", "car"]
    red, green, blue = map(int, colors["tree"].split(","))
    assert ((np.asarray(image.convert("RGB")) == (red, green, blue)).all(-1) == (label_map == 1)).all()


def test_yolo_is_read_back_by_supervision(written, label_map):
    folder = written("yolo")
    dataset = supervision.DetectionDataset.from_yolo(
        str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml"), force_masks=True
    )
    assert dataset.classes == ["sky", "tree", "car"]
    found = dataset.annotations[next(path for path in dataset.annotations if path.endswith("p0.jpg"))]
    read = np.full_like(label_map, LABELS.index("background"))
    for mask, number in zip(found.mask, found.class_id, strict=True):
        read[mask] = LABELS.index(dataset.classes[number])
    assert (read == label_map).all()
    # As Ultralytics reads it: truncated to whole pixels.
    read = np.full_like(label_map, LABELS.index("background"), dtype=np.int32)
    for line in (folder / "labels" / "p0.txt").read_text().splitlines():
        number, *values = line.split()
        points = (np.array(values, dtype=np.float32).reshape(-1, 2) * SIZE).astype(np.int32)
        cv2.fillPoly(read, [points], LABELS.index(dataset.classes[int(number)]))
    assert (read == label_map).all()


@settings(max_examples=200, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_polygons_give_exactly_their_region(region):
    filled = np.zeros(region.shape, dtype=np.uint8)
    for polygon in polygons(region):
        part = np.zeros_like(filled)
        cv2.fillPoly(part, [polygon.astype(np.int32)], 1)
        assert not (filled & part).any()
        filled |= part
    assert (filled.astype(bool) == region).all()


@pytest.mark.parametrize("name", ["coco", "voc"])
def test_what_segment_writes_can_be_trained_on(written, label_map, name):
    dataset = FolderDataset(written(name), "train", ignored_classes=())
    assert dataset.names == ["background", "sky", "tree", "car"]
    sample = dataset[0]
    expected = label_map if sample.file_name == "p0.jpg" else label_map[:, ::-1]
    assert (sample.labels == np.where(expected == 2, 0, np.where(expected == 3, 3, expected + 1))).all()
    assert len(FolderDataset(written(name), "val")) == 1
    pickle.loads(pickle.dumps(dataset))  # loader processes of macOS and Windows get it like this


def coco_file(path, photos, annotations, categories=((7, "dog"), (3, "cat"))):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "images": [
            {"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
            for number, name in enumerate(photos)
        ],
        "annotations": [{"id": number, "iscrowd": 0, **values} for number, values in enumerate(annotations)],
        "categories": [{"id": number, "name": name} for number, name in categories],
    }
    path.write_text(json.dumps(content))


def box(image, category, left, top, right, bottom):
    corners = [left, top, right, top, right, bottom, left, bottom]
    area = (right - left) * (bottom - top)
    return {"image_id": image, "category_id": category, "segmentation": [corners], "area": area}


def test_coco_polygons_become_masks_and_the_smaller_object_is_on_top(tmp_path):
    save_photos(tmp_path / "images", 3)
    # Label Studio writes paths of its own, and the photo without an annotation is listed.
    names = ["images\\p0.jpg", "/label-studio/data/p1.jpg", "p2.jpg", "gone.jpg"]
    annotations = [box(0, 3, 5, 5, 15, 15), box(0, 7, 0, 0, 20, 30), box(1, 7, 0, 0, 40, 10)]
    coco_file(tmp_path / "result.json", names, annotations)
    split = "train" if "images/p0.jpg" in FolderDataset(tmp_path, "train").stems else "val"
    dataset = FolderDataset(tmp_path, split, ignored_classes=())
    assert dataset.names == ["background", "cat", "dog"]
    labels = dataset[dataset.stems.index("images/p0.jpg")].labels
    assert (labels[6:14, 6:14] == 1).all() and labels[2, 2] == 2 and labels[2, 30] == 0
    report = inspect_folder(tmp_path)
    assert (report.form, report.automatic, report.splits) == ("COCO", True, {"train": 1, "val": 1})
    assert (report.without_mask, report.without_photo) == (["p2.jpg"], ["gone.jpg"])
    assert [count.photos for count in report.classes] == [2, 1, 2]


def test_a_coco_file_per_split_is_a_split(tmp_path):
    for split in ("train", "valid"):
        save_photos(tmp_path / split, 1, ending="png")
        path = (tmp_path / split / "p0.png").rename(tmp_path / split / f"{split}.png")
        coco_file(tmp_path / split / "_annotations.coco.json", [path.name], [box(0, 7, 0, 0, 9, 9)])
    assert FolderDataset(tmp_path, "val").stems == ["valid/valid.png"]
    assert FolderDataset(tmp_path, "train").names == ["cat", "dog"]


def test_photos_of_the_same_name_are_told_apart_by_their_folders(tmp_path):
    for split, color in (("train", "red"), ("val", "blue")):
        save_photos(tmp_path / "images" / split, 1, ending="png")
        Image.new("RGB", SIZE, color).save(tmp_path / "images" / split / "p0.png")
        coco_file(tmp_path / "annotations" / f"instances_{split}.json", ["p0.png"], [box(0, 7, 0, 0, 9, 9)])
    assert FolderDataset(tmp_path, "train")[0].image.getpixel((0, 0)) == (255, 0, 0)
    assert FolderDataset(tmp_path, "val")[0].image.getpixel((0, 0)) == (0, 0, 255)
    (tmp_path / "annotations" / "instances_val.json").unlink()
    (tmp_path / "annotations" / "instances_train.json").rename(tmp_path / "annotations" / "all.json")
    with pytest.raises(ValueError, match=r"p0\.png could be .*train/p0\.png or .*val/p0\.png"):
        FolderDataset(tmp_path, "train")


def test_a_damaged_annotation_is_named(tmp_path):
    save_photos(tmp_path, 2)
    broken = {"image_id": 0, "category_id": 7, "segmentation": {"size": [3], "counts": "x"}, "area": 3}
    coco_file(tmp_path / "a.json", ["p0.jpg", "p1.jpg"], [broken, box(1, 7, 0, 0, 9, 9)])
    (problem,) = inspect_folder(tmp_path).problems
    assert problem.startswith("annotation of 'p0.jpg' can't be read")


def test_a_panoptic_file_is_refused(tmp_path):
    content = {"images": [], "annotations": [{"segments_info": []}], "categories": []}
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"panoptic\.json is no COCO file of masks: .*it is panoptic"):
        FolderDataset(tmp_path, "train")


@pytest.fixture
def cvat(tmp_path):
    """CVAT's "Segmentation mask 1.1": masks in the colours of a table, one list of photos."""
    save_photos(tmp_path / "JPEGImages", 3)
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "default.txt").write_text("p0\np1\np2\n")
    table = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroof:250,50,83::\nlawn:51,221,255::\n"
    (tmp_path / "labelmap.txt").write_text(table)
    (tmp_path / "SegmentationClass").mkdir()
    colors = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255), (224, 224, 192)], dtype=np.uint8)
    for index in range(3):
        Image.fromarray(colors[stripes(0, 1, 2, 3, size=SIZE)]).save(tmp_path / "SegmentationClass" / f"p{index}.png")
    return tmp_path


def test_masks_in_the_colours_of_a_table(cvat):
    dataset = FolderDataset(cvat, "train", ignored_classes=())
    assert dataset.names == ["background", "roof", "lawn"] and len(dataset) == 2
    assert (dataset[0].labels == stripes(0, 1, 2, 255, size=SIZE)).all()


def test_a_colour_that_the_table_lacks_is_named(cvat):
    Image.new("RGB", SIZE, (1, 2, 3)).save(cvat / "SegmentationClass" / "p1.png")
    (problem,) = inspect_folder(cvat).problems
    assert "'p1.jpg'" in problem and problem.endswith("labelmap.txt does not have: 1,2,3")


@pytest.mark.parametrize("line", ["roof", "roof:1,2", "roof:1,2,300", ":1,2,3", "lawn:9,9,9", "roof:0,0,0"])
def test_a_colour_table_of_another_form_is_refused(cvat, line):
    (cvat / "labelmap.txt").write_text(f"background:0,0,0\nlawn:4,5,6\n{line}\n")
    with pytest.raises(ValueError, match=r"labelmap\.txt"):
        FolderDataset(cvat, "train")


def test_voc_without_a_table_has_vocs_classes(tmp_path):
    save_photos(tmp_path / "JPEGImages", 2)
    (tmp_path / "SegmentationClass").mkdir()
    for index in range(2):
        Image.fromarray(stripes(0, 12, 255, size=SIZE)).save(tmp_path / "SegmentationClass" / f"p{index}.png")
    dataset = FolderDataset(tmp_path, "train", ignored_classes=())
    assert len(dataset.names) == 21 and dataset.names[12] == "dog"
    assert set(np.unique(dataset[0].labels)) == {0, 12, 255}


def test_splits_are_made_automatically_and_stay_the_same_when_photos_are_added(tmp_path):
    folder = write_set(tmp_path, {0: "sky"}, [stripes(0)] * 20)
    (folder / "splits" / "train.txt").unlink()
    train, val = (set(FolderDataset(folder, split).stems) for split in ("train", "val"))
    assert (len(train), len(val)) == (16, 4) and not train & val
    with pytest.raises(ValueError, match=r"no split 'test' \(found: train, val\)"):
        FolderDataset(folder, "test")


def test_the_report_names_what_is_left_out(tmp_path):
    folder = write_set(tmp_path, {0: "sky", 1: "car"}, [stripes(0), stripes(0, 255), stripes(0, 9)])
    (folder / "splits" / "train.txt").unlink()
    Image.new("RGB", (4, 4)).save(folder / "images" / "lonely.png")
    Image.new("L", (4, 4)).save(folder / "masks" / "stray.png")
    report = inspect_folder(folder)
    assert (report.without_mask, report.without_photo) == (["lonely.png"], ["stray.png"])
    assert [count.photos for count in report.classes] == [2, 0] and report.unlabelled > 0
    assert len(report.problems) == 1 and "does not have: 9" in report.problems[0]


@pytest.mark.parametrize(("ending", "orientation"), [("jpg", 1), ("jpg", 6), ("webp", 1)])
def test_photos_are_copied_as_they_are_or_saved_upright(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"photo.{ending}"
    Image.new("RGB", SIZE, "red").save(path, exif=exif)
    upright = Image.new("RGB", SIZE[::-1] if orientation == 6 else SIZE, "red")
    writer = WRITERS["yolo"](tmp_path / "set", ["sky"])
    writer.add("a", str(path), upright, np.zeros(upright.size[::-1], dtype=np.int64))
    (copy,) = (tmp_path / "set" / "images").iterdir()
    assert Image.open(copy).size == upright.size
    assert (copy.read_bytes() == path.read_bytes()) == (ending == "jpg" and orientation == 1)
    writer.close()
    assert yaml.safe_load((tmp_path / "set" / "data.yaml").read_text())["names"] == {0: "sky"}


@pytest.mark.parametrize(
    ("name", "text", "advice"),
    [
        ("annotations.xml", "<annotations><version>1.1</version></annotations>", 'CVAT.* export "Segmentation mask'),
        ("project-1.json", '[{"annotations": [{"result": []}], "data": {"image": "a.jpg"}}]', 'Label Studio.*"COCO"'),
    ],
)
def test_a_tools_own_form_is_answered_with_what_to_export(tmp_path, name, text, advice):
    save_photos(tmp_path / "images", 1)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=advice):
        FolderDataset(tmp_path, "train")
