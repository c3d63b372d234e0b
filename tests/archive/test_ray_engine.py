"""The Ray engine: the same answers as the local one, bit for bit, and a killed worker loses nothing."""

import os
import signal
import threading
import time

import psutil
import pytest

from transformers_pat.archive import ArchiveError, Query, Searcher, TokenArchive
from transformers_pat.archive.tokenizing import Tokenizer, describe, plan, tokenize
from transformers_pat.loading import load_checkpoint
from transformers_pat.modeling_pat import PatForSemanticSegmentation

from ..support.tiny import photo, save_tiny_checkpoint
from .test_tokenizing import content

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    os.environ["OMP_NUM_THREADS"] = "1"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_tiny_checkpoint(folder)
    return str(folder)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(24):
        photo(seed=number).save(folder / f"{number:02d}.png")
    return [*(str(folder / f"{number:02d}.png") for number in range(24)), str(folder / "missing.png")]


@pytest.fixture(scope="module")
def local(checkpoint, sources, tmp_path_factory):
    model, processor = load_checkpoint(PatForSemanticSegmentation, checkpoint)
    archive = TokenArchive.create(tmp_path_factory.mktemp("local"), describe(model.pat, "tiny"))
    tokenize(archive, Tokenizer(model.pat, processor.image_processor), plan(archive, sources, 3), progress=False)
    return archive


def kill_a_worker(path) -> None:
    """Kill one of Ray's workers as soon as a first shard is there."""
    for _ in range(600):
        workers = [one for one in psutil.process_iter(["name"]) if "MapWorker" in (one.info["name"] or "")]
        if workers and list(path.glob("part-*")):
            os.kill(workers[0].pid, signal.SIGKILL)
            return
        time.sleep(0.05)


def test_tokenizing_with_a_killed_worker(cluster, checkpoint, sources, local, tmp_path):
    from transformers_pat.archive.ray_engine import tokenize_with_ray

    archive = TokenArchive.create(tmp_path / "archive", local.info)
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path / "archive",))
    killer.start()
    tokenize_with_ray(archive, checkpoint, plan(archive, sources, 3), workers=2)
    killer.join()
    assert content(archive.path) == content(local.path) and archive.verify() == []
    assert "missing.png" in (tmp_path / "archive" / "rejected-000008.jsonl").read_text()


def test_ranking(cluster, checkpoint, local):
    from transformers_pat.archive.ray_engine import rank_with_ray

    model, processor = load_checkpoint(PatForSemanticSegmentation, checkpoint)
    searcher = Searcher(local, model, processor)
    query = Query(["road", "tree"], without=["car"])
    assert rank_with_ray(searcher, query, 10) == searcher.rank(query, 10)


def test_a_damaged_shard_is_one_line(cluster, checkpoint, local):
    from transformers_pat.archive.ray_engine import rank_with_ray

    model, processor = load_checkpoint(PatForSemanticSegmentation, checkpoint)
    searcher = Searcher(local, model, processor)
    with open(local.shards()[-1], "ab") as file:
        file.write(b"0")
    with pytest.raises(ArchiveError, match="is damaged") as error:
        rank_with_ray(searcher, Query(["road"]), 10)
    assert len(str(error.value).splitlines()) == 1
