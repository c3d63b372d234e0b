"""Plain-folder data sets."""

import numpy as np
import pytest
from PIL import Image

from transformers_pat.data import FolderDataset

from ..support.data import write_set


@pytest.fixture
def folder(tmp_path):
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[:, 10:] = 2
    mask[:5] = 255
    return write_set(tmp_path / "set", {0: "background", 2: "car", 7: "tree"}, [mask, mask])


def test_classes_can_be_held_out(folder):
    dataset = FolderDataset(folder, "train", ignored_classes=["background", "Car"])
    assert dataset.names == ["tree"]
    assert set(np.unique(dataset[0].labels)) <= {0, dataset.ignore_index}
    with pytest.raises(ValueError, match="'bus' is not on the class list: background, car, tree"):
        FolderDataset(folder, "train", ignored_classes=["bus"])


def test_background_is_ignored_and_ids_are_renumbered(folder):
    dataset = FolderDataset(folder, "train")
    assert dataset.names == ["car", "tree"]
    sample = dataset[1]
    assert sample.image.size == (30, 20) and sample.labels.dtype == np.int64
    assert set(np.unique(sample.labels)) == {0, 255}


def test_sixteen_bit_masks_keep_ids_above_255(tmp_path):
    mask = np.full((8, 8), 300, dtype=np.uint16)
    mask[0] = 65535
    dataset = FolderDataset(
        write_set(tmp_path / "big", {i: f"class {i}" for i in range(400)}, [mask]), "train", ignore_index=65535
    )
    assert set(np.unique(dataset[0].labels)) == {300, 65535}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "classes.txt").unlink(), "no classes.txt"),
        (lambda f: (f / "masks" / "p0.png").unlink(), "has no mask"),
        (lambda f: (f / "splits" / "train.txt").write_text("nothing"), "no such photo"),
        (lambda f: (f / "classes.txt").write_text("car"), "expected lines"),
        (lambda f: (f / "classes.txt").write_text("²: car"), "expected lines"),
        (lambda f: (f / "classes.txt").write_text("0: car\n70000: tree"), "class id 70000 is too large"),
    ],
)
def test_a_damaged_folder_is_refused_by_name(folder, damage, message):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        FolderDataset(folder, "train")


def test_a_mask_that_does_not_fit_is_named(folder):
    Image.fromarray(np.zeros((5, 5), dtype=np.uint8)).save(folder / "masks" / "p0.png")
    with pytest.raises(ValueError, match=r"p0.jpg.* is 5x5, its photo 30x20"):
        FolderDataset(folder, "train")[0]
    Image.fromarray(np.full((20, 30), 9, dtype=np.uint8)).save(folder / "masks" / "p0.png")
    with pytest.raises(ValueError, match=r"p0.jpg.* does not have: 9"):
        FolderDataset(folder, "train")[0]
    with pytest.raises(ValueError, match="no split 'val'"):
        FolderDataset(folder, "val")


def test_split_and_class_files_may_start_with_a_byte_order_mark(folder):
    for path in (folder / "classes.txt", folder / "splits" / "train.txt"):
        path.write_text(path.read_text(), encoding="utf-8-sig")
    dataset = FolderDataset(folder, "train", strict=False)
    assert dataset.names == ["car", "tree"] and dataset.missing == []
    assert [sample.file_name for sample in dataset] == ["p0.jpg", "p1.jpg"]


def test_a_split_may_name_files(folder):
    (folder / "splits" / "train.txt").write_text("p1.jpg\np0.JPG\n")
    assert [sample.file_name for sample in FolderDataset(folder, "train")] == ["p1.jpg", "p0.jpg"]


def test_the_suffix_of_masks_may_be_in_capitals(folder):
    for mask in (folder / "masks").iterdir():
        mask.rename(mask.with_suffix(".PNG"))
    assert set(np.unique(FolderDataset(folder, "train")[0].labels)) == {0, 255}


def test_without_any_mask_the_message_has_the_path_that_was_looked_for(folder):
    for mask in (folder / "masks").iterdir():
        mask.rename(mask.with_stem(f"{mask.stem}_other"))
    expected = f"no photo with a mask in split 'train' .*'p0.jpg' has no mask '{folder / 'masks' / 'p0.png'}'"
    with pytest.raises(ValueError, match=expected):
        FolderDataset(folder, "train", strict=False)
