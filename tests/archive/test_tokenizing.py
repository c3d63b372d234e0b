"""Photos into an archive: the codes of the model, each photo once, whatever is unreadable, killed or at once."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from transformers_pat.archive import TokenArchive
from transformers_pat.archive.tokenizing import Tokenizer, describe, plan, tokenize

from ..support.tiny import photo, tiny_model, tiny_processor

SIZES = [(64, 64), (96, 128), (40, 150)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Nine photos of three shapes, an empty file and one that is missing."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(9):
        photo(*SIZES[number % 3], seed=number).save(folder / f"{number}.png")
    (folder / "empty.png").touch()
    names = [f"{number}.png" for number in range(5)] + ["empty.png", "missing.png"]
    return [str(folder / name) for name in [*names, *(f"{number}.png" for number in range(5, 9))]]


def run(path: str, sources: list[str], slowly: bool = False) -> None:
    torch.set_num_threads(1)
    model, processor = tiny_model().pat, tiny_processor().image_processor
    archive = TokenArchive.create(path, describe(model, "tiny"))
    tokenizer = Tokenizer(model, processor, batch_size=2)
    if slowly:
        encode = tokenizer._encode
        tokenizer._encode = lambda group: time.sleep(0.3) or encode(group)
    tokenize(archive, tokenizer, plan(archive, sources, photos_per_shard=3), progress=False)


def content(path) -> list[tuple]:
    return [(p.source, p.sha256, p.width, p.height, *(c.tobytes() for c in p.codes)) for p in TokenArchive(path)]


@pytest.fixture(scope="module")
def undisturbed(photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "archive"
    run(str(path), photos)
    return path


def test_the_codes_are_the_models(undisturbed, photos):
    model, processor = tiny_model().pat, tiny_processor().image_processor
    found = list(TokenArchive(undisturbed))
    assert [Path(row.source).name for row in found] == [f"{number}.png" for number in range(9)]
    for number, row in enumerate(found):
        image = photo(*SIZES[number % 3], seed=number)
        with torch.inference_mode():
            expected = model.encode(processor(image, return_tensors="pt")["pixel_values"]).codes
        assert (row.width, row.height) == image.size
        for own, level in zip(row.codes, expected, strict=True):
            np.testing.assert_array_equal(own, level[0])


def test_unreadable_photos_are_listed(undisturbed):
    lines = [json.loads(line) for path in sorted(undisturbed.glob("rejected-*.jsonl")) for line in path.open()]
    assert [Path(line["source"]).name for line in lines] == ["empty.png", "missing.png"]
    assert all(line["reason"] and "\n" not in line["reason"] for line in lines)


def test_nothing_is_done_twice(undisturbed, photos):
    before = {path.name: path.stat().st_mtime_ns for path in undisturbed.glob("part-*")}
    run(str(undisturbed), [*photos, photos[0]])
    run(str(undisturbed), photos[:4])
    assert {path.name: path.stat().st_mtime_ns for path in undisturbed.glob("part-*")} == before


def test_later_photos_are_added(photos, undisturbed, tmp_path):
    run(str(tmp_path / "archive"), photos[:4])
    run(str(tmp_path / "archive"), photos)
    assert content(tmp_path / "archive") == content(undisturbed)


def test_another_process_has_a_part(photos, tmp_path):
    model = tiny_model().pat
    archive = TokenArchive.create(tmp_path, describe(model, "tiny"))
    parts = plan(archive, photos, photos_per_shard=3)

    with FileLock(tmp_path / "locks" / "000001.lock"):
        tokenize(archive, Tokenizer(model, tiny_processor().image_processor), parts, progress=False)
        assert archive.numbers() == {0, 2, 3}


@pytest.mark.parametrize("processes", [1, 2])
def test_kills_lose_nothing(photos, undisturbed, tmp_path, processes):
    """As often as PAT_TEST_KILLS says; twice by default."""
    path, context = str(tmp_path / "archive"), multiprocessing.get_context("spawn")
    rng = np.random.default_rng(processes)
    for _ in range(int(os.environ.get("PAT_TEST_KILLS", "2"))):
        running = [context.Process(target=run, args=(path, photos, True)) for _ in range(processes)]
        for process in running:
            process.start()
        time.sleep(rng.uniform(3, 8))
        for process in running:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
    run(path, photos)
    assert content(path) == content(undisturbed) and TokenArchive(path).verify() == []


def test_the_decoder_changes_no_code():
    model = tiny_model().pat
    before = describe(model, "a")
    model.pixel_head.weight.data.add_(1)
    assert describe(model, "a") == before
    model.codebooks[0].embed.neg_()
    assert describe(model, "a") != before
