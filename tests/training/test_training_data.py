"""What training draws: any source, in an order and with augmentations that depend on numbers alone."""

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from transformers_pat.data import BadSampleError, FolderDataset
from transformers_pat.data.source import DataSource, read_source
from transformers_pat.training.augmentation import TrainingView
from transformers_pat.training.batches import TrainingBatches
from transformers_pat.training.vocabulary import BatchWords, VocabularySampler, renumber

from ..support.data import write_set

VIEW = TrainingView(16, [0.5, 0.5, 0.5], [0.5, 0.5, 0.5])
MASKS = [np.full((20, 30), 2 * (index % 2), dtype=np.uint8) for index in range(5)]


@pytest.fixture(autouse=True)
def streams_end_at_once(monkeypatch):
    """`datasets` sleeps for seconds at the end of each epoch of a parquet stream."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)


@pytest.fixture
def folder(tmp_path):
    return write_set(tmp_path / "street", {0: "road", 2: "car"}, MASKS)


@pytest.fixture
def animals(tmp_path):
    return write_set(tmp_path / "animals", {0: "background", 1: "dog", 5: "cat"}, [mask // 2 * 5 for mask in MASKS])


def picture_bytes(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def parquet(tmp_path):
    """Photos and 16-bit masks as bytes in a parquet file, and a class list beside it."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in MASKS]
    rows = {
        "photo": [{"bytes": picture_bytes(picture), "path": f"{i}.png"} for i, picture in enumerate(pictures)],
        "mask": [{"bytes": picture_bytes(mask.astype(np.uint16)), "path": f"{i}.png"} for i, mask in enumerate(MASKS)],
    }
    features = datasets.Features({"photo": datasets.Image(), "mask": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "classes.txt").write_text("0: road\n2: car\n")
    return {
        "dataset": str(tmp_path / "rows.parquet"),
        "image_column": "photo",
        "label_column": "mask",
        "classes": str(tmp_path / "classes.txt"),
    }


def batches(*sources, batch_size=2, num_batches=30, **kwargs):
    opened = [(source, 1.0) if isinstance(source, FolderDataset) else source for source in sources]
    return TrainingBatches(opened, VIEW, batch_size, num_batches, seed=3, **kwargs)


def equal(one, other):
    return all(torch.equal(one[name], other[name]) for name in ("pixel_values", "labels", "noise"))


def test_a_batch_depends_on_seed_and_number_alone(folder):
    forwards, backwards = batches(FolderDataset(folder, "train")), batches(FolderDataset(folder, "train"))
    late = {number: backwards[number] for number in reversed(range(10))}
    assert all(equal(forwards[number], late[number]) for number in range(10))
    assert not equal(forwards[0], forwards[5])


def test_a_longer_run_starts_like_a_shorter_one(folder, animals):
    sets = [FolderDataset(folder, "train"), FolderDataset(animals, "train")]
    short, long = batches(*sets, num_batches=8), batches(*sets, num_batches=50)
    assert all(equal(short[number], long[number]) for number in range(8))


def test_two_processes_see_what_one_with_double_batch_sees(folder, animals):
    sets = [FolderDataset(folder, "train"), FolderDataset(animals, "train")]
    whole = batches(*sets, batch_size=4)
    parts = [batches(*sets, process_index=index, num_processes=2) for index in (0, 1)]
    for number in range(12):
        one, two = (part[number] for part in parts)
        assert one["names"] == two["names"] == whole[number]["names"]
        together = {name: torch.cat([one[name], two[name]]) for name in ("pixel_values", "labels", "noise")}
        assert equal(together, whole[number])
        assert torch.equal(one["present"] + two["present"], whole[number]["present"])


def test_every_epoch_has_every_sample_once_in_a_new_order(folder):
    draw = batches(FolderDataset(folder, "train")).draws[0]
    epochs = [[draw(5 * epoch + i, [])[0].file_name for i in range(5)] for epoch in range(4)]
    assert all(sorted(names) == [f"p{i}.jpg" for i in range(5)] for names in epochs)
    assert len({tuple(names) for names in epochs}) > 1


def test_sets_are_drawn_by_weight_and_keep_their_own_classes(folder, animals):
    mixed = batches((FolderDataset(folder, "train"), 3.0), (FolderDataset(animals, "train"), 1.0), num_batches=400)
    assert 0.65 < (mixed.chosen == 0).mean() < 0.85
    seen = {tuple(mixed[number]["names"]) for number in range(20)}
    assert seen == {("road", "car"), ("dog", "cat")}


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_sources_give_what_a_folder_gives(parquet, streaming):
    rows = DataSource(**parquet, streaming=streaming).open()
    assert rows.names == ["road", "car"]
    drawn = batches((rows, 1.0))
    again = batches((DataSource(**parquet, streaming=streaming).open(), 1.0))
    assert set(drawn[0]["labels"].unique().tolist()) <= {0, 1}
    # Forwards, and from the middle, as after resuming.
    assert equal(drawn[7], again[7]) and equal(drawn[9], again[9]) and equal(drawn[0], again[0])


def test_a_saved_dataset_and_photos_alone(parquet, folder, tmp_path):
    datasets.load_dataset("parquet", data_files={"train": parquet["dataset"]}, split="train").save_to_disk(
        tmp_path / "saved"
    )
    saved = DataSource(dataset=str(tmp_path / "saved"), image_column="photo").open()
    assert len(saved) == 5 and saved[0].labels is None
    photos = DataSource(photos=str(folder / "images")).open()
    assert len(photos) == 5
    batch = batches((photos, 1.0))[0]
    assert "labels" not in batch and batch["pixel_values"].shape == (2, 3, 16, 16)


def damage(folder):
    Image.fromarray(np.zeros((5, 5), dtype=np.uint8)).save(folder / "masks" / "p0.png")
    (folder / "images" / "p1.jpg").write_bytes(b"no picture")
    Image.fromarray(np.full((20, 30), 9, dtype=np.uint8)).save(folder / "masks" / "p2.png")


def test_bad_samples_are_named_and_replaced(folder):
    damage(folder)
    drawn = batches(FolderDataset(folder, "train"))
    messages = {message for number in range(10) for message in drawn[number]["skipped"]}
    assert len(messages) == 3
    for part in ("p0.jpg' is 5x5", "photo 'p1.jpg' can't be read", "p2.jpg' has class ids"):
        assert any(part in message for message in messages)
    assert drawn[0]["pixel_values"].shape[0] == 2
    with pytest.raises(BadSampleError):
        [batches(FolderDataset(folder, "train"), strict=True)[number] for number in range(10)]


def test_bad_rows_of_a_stream_are_replaced_alike_for_everybody(parquet):
    table = datasets.load_dataset("parquet", data_files=parquet["dataset"], split="train")
    table = table.cast_column("photo", datasets.Image(decode=False))
    broken = table.map(
        lambda row, i: {"photo": {"bytes": b"x", "path": "x.png"} if i == 2 else row["photo"]}, with_indices=True
    )
    broken.cast_column("photo", datasets.Image()).to_parquet(parquet["dataset"])
    one, other = (batches((DataSource(**parquet, streaming=True).open(), 1.0)) for _ in range(2))
    forwards = [one[number] for number in range(8)]
    assert any("x.png" in message for batch in forwards for message in batch["skipped"])
    assert all(equal(other[number], forwards[number]) for number in (7, 3, 5))


def test_a_stream_of_bad_rows_ends(parquet):
    table = datasets.load_dataset("parquet", data_files=parquet["dataset"], split="train")
    bad = table.cast_column("photo", datasets.Image(decode=False)).map(
        lambda row: {"photo": {"bytes": b"x", "path": "x.png"}}
    )
    bad.cast_column("photo", datasets.Image()).to_parquet(parquet["dataset"])
    with pytest.raises(ValueError, match=r"no row of the stream can be used; the first: photo 'x\.png' can't be read"):
        batches((DataSource(**parquet, streaming=True).open(), 1.0))[0]


def test_nothing_usable_is_an_error(folder):
    for photo in (folder / "images").iterdir():
        photo.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="none of the 5 samples can be used"):
        batches(FolderDataset(folder, "train"))[0]


def test_missing_files_stop_or_are_left_out(folder):
    (folder / "masks" / "p3.png").unlink()
    with pytest.raises(ValueError, match="has no mask"):
        DataSource(folder=str(folder)).open()
    lenient = DataSource(folder=str(folder)).open(strict=False)
    assert len(lenient) == 4 and len(lenient.missing) == 1


def test_words_ignore_case():
    vocabulary = VocabularySampler({"Sky": ["SKY", "heaven"]}, ("{}",), seed=0)
    drawn = [vocabulary(["sky", "Sky"], torch.ones(2), number).words for number in range(20)]
    assert all(len({word.casefold() for word in words}) == len(words) for words in drawn)
    assert any(len(words) == 2 for words in drawn)


def test_words_cover_what_is_present_and_vary():
    vocabulary = VocabularySampler({"car": ["automobile"]}, ("{}", "a {}"), seed=0, keep_absent=0.5)
    names = ["road", "car", "sky", "tree"]
    drawn = [vocabulary(names, torch.tensor([0, 7, 0, 1]), number) for number in range(50)]
    for words, classes, background, _ in drawn:
        assert {*classes, *background} >= {1, 3} and not {*classes} & {*background} and {*background} <= {1, 3}
        assert len(words) == len(set(words)) == len(classes) and {*classes} & {1, 3}
    assert {"car", "automobile"} <= {word for batch in drawn for word in batch.words}
    assert {len(batch.words) for batch in drawn} == {1, 2, 3, 4} and {batch.template for batch in drawn} == {
        "{}",
        "a {}",
    }
    assert 1 <= sum(len(batch.background) for batch in drawn) <= 25
    assert vocabulary(names, torch.tensor([0, 7, 0, 1]), 3) == drawn[3]
    few = VocabularySampler({}, ("{}",), seed=0, max_words=2)
    assert len(few([f"class {i}" for i in range(900)], torch.zeros(900), 0).words) == 2
    crowded = few([f"class {i}" for i in range(5)], torch.ones(5), 0)
    assert len(crowded.classes) == 2 and len(crowded.background) == 3


def test_background_is_no_word():
    vocabulary = VocabularySampler({}, ("{}",), seed=0, leave_out=0)
    for number in range(5):
        words = vocabulary(["Background", "cat"], torch.tensor([9, 3]), number)
        assert (words.words, words.classes, words.background) == (["cat"], [1], [0])


def test_labels_are_renumbered_by_word():
    labels = torch.tensor([[0, 3, 65535, 2, 1]])
    words = BatchWords(["d", "a"], [3, 0], [1], "{}")
    assert renumber(labels, words, 4, ignore_index=65535, new_ignore_index=255).tolist() == [[1, 0, 255, 255, 2]]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("nowhere:train", "no data folder"),
        ('{"folder": "a", "photos": "b"}', "needs one of"),
        ('{"folder": "a", "wait": 2}', "unknown field 'wait'"),
        ('{"folder"', "no JSON"),
        ('{"dataset": "nowhere/nothing.parquet"}', "datasets can't load"),
        ('{"benchmark": "ade20k_150"}', "needs root"),
    ],
)
def test_a_wrong_source_is_refused(item, message):
    with pytest.raises(ValueError, match=message):
        read_source(item).open()


def test_wrong_columns_and_class_lists_are_refused(parquet):
    with pytest.raises(ValueError, match="'image' holds no pictures; the columns are photo, mask"):
        DataSource(**{**parquet, "image_column": "image"}).open()
    with pytest.raises(ValueError, match="needs classes"):
        DataSource(**{**parquet, "classes": None}).open()
    with pytest.raises(ValueError, match="no class list"):
        DataSource(**{**parquet, "classes": "nowhere.txt"}).open()
