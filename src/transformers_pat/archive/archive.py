"""An archive: a folder of shards, on any file system that fsspec knows, and what they have in common."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import datasets
import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from .shards import (
    NAME,
    ArchiveError,
    ArchiveInfo,
    TokenizedPhoto,
    check_rows,
    count_rows,
    read_shard,
    to_photos,
    to_table,
    write_shard,
    write_whole,
)

DESCRIPTION = "archive.json"
PHOTOS_PER_SHARD = 1024


class TokenArchive:
    """
    Photos as codes, in a folder of Parquet shards; docs/archive.md states the format.

    Opening reads the description only. Every read of a shard checks its bytes first, so a damaged shard is an error,
    never a wrong row.

    Args:
        path: The folder, local or any URL that fsspec opens.

    Raises:
        ArchiveError: If there is no archive, or its description is damaged.
    """

    def __init__(self, path: str | Path):
        self.path = str(path).rstrip("/")
        self.filesystem, self._root = fsspec.core.url_to_fs(self.path)
        try:
            with self.filesystem.open(f"{self._root}/{DESCRIPTION}", "rb") as file:
                text = file.read()
        except FileNotFoundError:
            raise ArchiveError(f"no archive at {self.path}: it has no {DESCRIPTION}") from None
        try:
            self.info = ArchiveInfo.from_json(text)
        except ArchiveError as error:
            raise ArchiveError(f"{self.path}/{DESCRIPTION}: {error}") from None

    @classmethod
    def create(cls, path: str | Path, info: ArchiveInfo) -> "TokenArchive":
        """
        Open the archive at `path`, which is made if there is none.

        Raises:
            ArchiveError: If there is one of other codes.
        """
        filesystem, root = fsspec.core.url_to_fs(str(path).rstrip("/"))
        if not filesystem.exists(f"{root}/{DESCRIPTION}"):
            filesystem.makedirs(root, exist_ok=True)
            write_whole(filesystem, f"{root}/{DESCRIPTION}", info.to_json().encode())
        archive = cls(path)
        archive.require(info)
        return archive

    def require(self, info: ArchiveInfo) -> None:
        """
        Check that codes of `info` may be added to or compared with this archive's.

        Raises:
            ArchiveError: If they are other codes.
        """
        if info.fingerprint != self.info.fingerprint:
            raise ArchiveError(
                f"{self.path} holds codes of {self.info.checkpoint}, which are not those of {info.checkpoint}: "
                "use its checkpoint, or another archive"
            )

    def path_of(self, name: str) -> str:
        """Path of a file of the archive on its file system."""
        return f"{self._root}/{name}"

    @property
    def is_local(self) -> bool:
        """Whether it is on a file system that has locks."""
        return isinstance(self.filesystem, LocalFileSystem)

    def shards(self) -> list[str]:
        """Paths of all shards, in the order of their numbers."""
        names = (path.rsplit("/", 1)[-1] for path in self.filesystem.ls(self._root, detail=False))
        return [f"{self._root}/{name}" for name in sorted(name for name in names if NAME.fullmatch(name))]

    def read(self, shard: str) -> pa.Table:
        """
        Rows of one shard.

        Raises:
            ArchiveError: If the shard is damaged or foreign.
        """
        return read_shard(self.filesystem, shard, self.info)

    def __iter__(self) -> Iterator[TokenizedPhoto]:
        """All photos, in the order in which they were added, a shard in memory at a time."""
        for shard in self.shards():
            yield from to_photos(self.read(shard), self.info)

    def __len__(self) -> int:
        """Number of photos, as the shards' footers say; [`verify`] checks them."""
        return sum(count_rows(self.filesystem, shard) for shard in self.shards())

    def write(self, number: int, photos: list[TokenizedPhoto]) -> str:
        """
        Write shard `number`, whole or not at all; returns its path.

        Raises:
            ValueError: If codes don't fit this archive.
            ArchiveError: If there is a shard of this number.
        """
        if number in self.numbers():
            raise ArchiveError(f"{self.path} has a shard {number} already")
        return write_shard(self.filesystem, self._root, number, to_table(photos, self.info))

    def append(self, photos: Iterable[TokenizedPhoto], photos_per_shard: int = PHOTOS_PER_SHARD) -> None:
        """
        Add photos in new shards. For one process at a time.

        Raises:
            ValueError: If codes don't fit this archive.
        """
        number, rows = max(self.numbers(), default=-1) + 1, list[TokenizedPhoto]()
        for photo in photos:
            rows.append(photo)
            if len(rows) == photos_per_shard:
                self.write(number, rows)
                number, rows = number + 1, []
        if rows:
            self.write(number, rows)

    def numbers(self) -> set[int]:
        """Numbers of all shards."""
        return set(map(_number, self.shards()))

    def verify(self) -> list[str]:
        """What is wrong, a line per problem; [] for a sound archive. Reads everything once."""
        problems, seen = [], set()
        for shard in self.shards():
            try:
                check_rows(self.read(shard), self.info)
            except ArchiveError as error:
                problems.append(str(error))
            if (number := _number(shard)) in seen:
                problems.append(f"{self.path} has two shards of number {number}")
            seen.add(number)
        return problems

    def merge(self, other: "TokenArchive") -> None:
        """
        Add all photos of another archive, shard by shard.

        Raises:
            ArchiveError: If the other has other codes, or a damaged shard; those before it have been added.
        """
        self.require(other.info)
        for shard in other.shards():
            self.append(to_photos(other.read(shard), other.info), PHOTOS_PER_SHARD)

    def to_dataset(self) -> datasets.Dataset:
        """The archive as a `datasets.Dataset` with `codes` unpacked, one nested list of integers per level."""

        def rows() -> Iterator[dict]:
            for photo in self:
                codes = {f"codes_{level}": grid.tolist() for level, grid in enumerate(photo.codes)}
                yield {"source": photo.source, "width": photo.width, "height": photo.height, **codes}

        return datasets.Dataset.from_generator(rows)


def _number(shard: str) -> int:
    """The number in a shard's name."""
    return int(shard.rsplit("/", 1)[-1].split("-")[1])
