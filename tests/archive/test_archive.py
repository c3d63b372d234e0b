"""Archives: what goes in comes out, other codes stay out, damage is found."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileOpener, LocalFileSystem

from transformers_pat.archive import ArchiveError, ArchiveInfo, TokenArchive, TokenizedPhoto
from transformers_pat.archive.shards import write_whole

INFO = ArchiveInfo("a" * 16, "mine", 16, (2.0, 1.0, 0.5), (512, 1000, 2))


def photo(number: int, patch_grid=(3, 5), info=INFO) -> TokenizedPhoto:
    rng = np.random.default_rng(number)
    grids = zip(info.grids(patch_grid), info.codebook_sizes, strict=True)
    codes = tuple(rng.integers(0, size, grid) for grid, size in grids)
    return TokenizedPhoto(f"photos/{number}.jpg", bytes([number % 256] * 32), 640, 480, 16, patch_grid, codes)


def same(one: TokenizedPhoto, other: TokenizedPhoto) -> bool:
    numbers = ("source", "sha256", "width", "height", "patch_grid")
    equal = all(getattr(one, name) == getattr(other, name) for name in numbers)
    return equal and all(np.array_equal(a, b) for a, b in zip(one.codes, other.codes, strict=True))


@pytest.fixture
def archive(tmp_path):
    archive = TokenArchive.create(tmp_path / "archive", INFO)
    archive.append((photo(number, (number % 4 + 1, 5)) for number in range(10)), photos_per_shard=4)
    return archive


def test_what_goes_in_comes_out(archive):
    opened = TokenArchive(archive.path)
    assert opened.info == INFO and len(opened) == 10 and len(opened.shards()) == 3
    assert all(same(found, photo(number, (number % 4 + 1, 5))) for number, found in enumerate(opened))
    assert opened.verify() == []


def test_any_parquet_reader_reads_it(archive):
    table = pq.read_table(archive.shards()[0])
    assert table.column("source").to_pylist() == [f"photos/{number}.jpg" for number in range(4)]


def test_a_memory_file_system():
    archive = TokenArchive.create("memory://archive", INFO)
    archive.append([photo(0)])
    assert same(next(iter(TokenArchive("memory://archive"))), photo(0))


def test_as_a_dataset(archive):
    dataset = archive.to_dataset()
    assert len(dataset) == 10 and dataset[3]["codes_1"] == photo(3, (4, 5)).codes[1].tolist()


def test_more_can_be_added_and_merged(archive, tmp_path):
    other = TokenArchive.create(tmp_path / "other", INFO)
    other.append([photo(10), photo(11)])
    archive.merge(other)
    assert [found.source for found in archive][-2:] == ["photos/10.jpg", "photos/11.jpg"] and archive.verify() == []


def test_other_codes_stay_out(archive, tmp_path):
    info = ArchiveInfo("b" * 16, "theirs", 16, (1.0,), (512,))
    with pytest.raises(ArchiveError, match="holds codes of mine, which are not those of theirs"):
        TokenArchive.create(archive.path, info)
    other = TokenArchive.create(tmp_path / "other", info)
    with pytest.raises(ArchiveError, match="not those of theirs"):
        archive.merge(other)
    other.append([photo(0, info=info)])
    Path(other.shards()[0]).rename(Path(archive.path, Path(other.shards()[0]).name.replace("000000", "000007")))
    assert len(archive.verify()) == 1 and "other columns" in archive.verify()[0]


@pytest.mark.parametrize("codes", [(np.zeros((2, 3)),), (np.full((3, 5), 1000),), (np.full((3, 5), -1),)])
def test_codes_that_do_not_fit(archive, codes):
    wrong = photo(0)
    wrong.codes = (wrong.codes[0], codes[0].astype(int), wrong.codes[2])
    before = archive.shards()
    with pytest.raises(ValueError, match=r"should be|don't fit"):
        archive.append([wrong])
    assert archive.shards() == before


def test_every_changed_byte_is_found(tmp_path):
    archive = TokenArchive.create(tmp_path, INFO)
    archive.append([photo(0, (1, 1))])
    shard = Path(archive.shards()[0])
    content = shard.read_bytes()
    for position in range(len(content)):
        shard.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(ArchiveError, match="damaged"):
            archive.read(str(shard))
    shard.write_bytes(content[:-10])
    assert archive.verify() == [f"{shard} is damaged: its bytes are not those that were written"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 2}', "\udcff"])
def test_a_damaged_description(tmp_path, text):
    (tmp_path / "archive.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArchiveError, match=r"archive\.json: its description is damaged"):
        TokenArchive(tmp_path)


def test_a_newer_format(archive):
    path = Path(archive.path, "archive.json")
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ArchiveError, match="format 2"):
        TokenArchive(archive.path)


def test_no_archive(tmp_path):
    with pytest.raises(ArchiveError, match=r"no archive at .*: it has no archive\.json"):
        TokenArchive(tmp_path)


def test_a_shard_is_written_whole_or_not_at_all(archive, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(archive.filesystem), "mv", full)
    with pytest.raises(OSError, match="No space"):
        archive.append([photo(10)])
    assert len(TokenArchive(archive.path)) == 10 and archive.verify() == []


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    def write_some(file, content):
        file.f.write(content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalFileOpener, "write", write_some, raising=False)
    with pytest.raises(OSError, match="No space left"):
        write_whole(LocalFileSystem(), f"{tmp_path}/part.parquet", b"content")
    assert list(tmp_path.iterdir()) == []
