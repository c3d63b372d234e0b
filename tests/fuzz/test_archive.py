"""Archives that are damaged, or made to harm: read as they are, or refused by one line."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from transformers_pat.archive import TokenArchive
from transformers_pat.archive.query import Query

from ..archive.test_archive import INFO, photo, same
from .support import FUZZ, JSON, changed_json, damaged, one_line, run


@pytest.fixture
def shard(tmp_path_factory):
    """Makes an archive whose only shard has this content, with a name that fits it."""

    def make(content: bytes) -> TokenArchive:
        archive = TokenArchive.create(tmp_path_factory.mktemp("archive"), INFO)
        name = f"part-000000-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
        with open(archive.path_of(name), "wb") as file:
            file.write(content)
        return archive

    return make


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    archive = TokenArchive.create(tmp_path_factory.mktemp("whole"), INFO)
    archive.append(photo(number) for number in range(3))
    with open(archive.shards()[0], "rb") as file:
        return file.read()


def read(archive: TokenArchive) -> None:
    """Reads an archive in every way; what comes is whole, or an error of one line."""
    with one_line():
        assert len(archive) < 2**40
    problems = archive.verify()
    assert all("\n" not in problem for problem in problems)
    found = []
    with one_line():
        found = list(archive)
    assert all([level.shape for level in one.codes] == archive.info.grids(one.patch_grid) for one in found)


@FUZZ
@given(st.data())
def test_bytes_of_a_shard_whose_name_fits_them(shard, content, data):
    read(shard(data.draw(damaged(content))))


@FUZZ
@given(st.data())
def test_bytes_of_a_shard(shard, content, data):
    archive = shard(content)
    changed = data.draw(damaged(content))
    assume(changed != content)
    with open(archive.shards()[0], "wb") as file:
        file.write(changed)
    assert len(archive.verify()) == 1
    with pytest.raises(ValueError, match=r"is damaged|is no Parquet file"):
        list(archive)


NUMBERS = st.sampled_from([-(2**31), -1, 0, 1, 2, 2**16, 2**31 - 1])


@FUZZ
@given(st.data())
def test_rows_of_a_shard(shard, data):
    """Grids that are negative, empty or huge, and codes that don't fill them."""
    row = {"source": data.draw(st.text(max_size=9)), "sha256": bytes(32)}
    row |= {name: data.draw(NUMBERS) for name in ("width", "height")}
    row |= {name: data.draw(NUMBERS | st.integers(0, 9)) for name in ("grid_height", "grid_width")}
    row |= {f"codes_{level}": data.draw(st.binary(max_size=30)) for level in range(3)}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([row], schema=INFO.schema), sink)
    read(shard(sink.getvalue().to_pybytes()))


@FUZZ
@given(st.data())
def test_the_description(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("archive")
    archive = TokenArchive.create(folder, INFO)
    archive.append([photo(0)])
    text = changed_json(data, INFO.to_json())
    (folder / "archive.json").write_bytes(data.draw(st.just(text.encode()) | damaged(INFO.to_json().encode())))
    with one_line():
        assert all(same(found, photo(0)) for found in TokenArchive(folder))
    assert run("verify", folder).exit_code in (0, 1, 2)


@FUZZ
@given(
    st.lists(st.text(max_size=9), max_size=3),
    st.lists(st.text(max_size=9), max_size=2),
    st.floats() | st.integers(-2, 2),
    st.integers(-3, 9),
)
def test_queries(words, without, min_share, top):
    with one_line():
        query = Query(words, "any", without, min_share, top)
        count = len(words) + len(without)
        score = query.score(np.full(count, 0.5), np.full(count, 1 / count))
        assert score is None or 0 <= score <= 1


@FUZZ
@given(JSON)
def test_a_file_in_place_of_a_description(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("archive")
    (folder / "archive.json").write_text(str(content), encoding="utf-8", errors="ignore")
    with one_line():
        TokenArchive(folder)
