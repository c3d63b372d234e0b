"""One shard: a Parquet file of photos' codes, named by its number and by a hash of its bytes."""

import contextlib
import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..layers_pat import level_grid
from .packing import bit_width, pack, packed_size, unpack

FORMAT = 1
METADATA_KEY = b"transformers_pat"
NAME = re.compile(r"part-(\d{6,})-([0-9a-f]{16})\.parquet")


class ArchiveError(ValueError):
    """An archive that can't be read or doesn't fit; one line that says what and where."""


@dataclass(frozen=True)
class ArchiveInfo:
    """
    What the codes of an archive are; the same in all its shards.

    Args:
        fingerprint: Hash of the weights that make the codes. Codes of different fingerprints mean different things.
        checkpoint: Name of the checkpoint, for people.
        patch_size: Side of a patch in pixels.
        level_strides: Stride of each level in patches, coarsest first.
        codebook_sizes: Number of codes of each level.
    """

    fingerprint: str
    checkpoint: str
    patch_size: int
    level_strides: tuple[float, ...]
    codebook_sizes: tuple[int, ...]

    def to_json(self) -> str:
        """As it stands in archive.json and in every shard's metadata."""
        return json.dumps({"format": FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, text: str | bytes) -> "ArchiveInfo":
        """
        Read what [`to_json`] wrote.

        Raises:
            ArchiveError: If it is damaged or of a newer format.
        """
        try:
            fields = json.loads(text)
            version = fields.pop("format")
            strides, sizes = tuple(map(float, fields.pop("level_strides"))), tuple(fields.pop("codebook_sizes"))
            info = cls(**fields, level_strides=strides, codebook_sizes=sizes)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ArchiveError("its description is damaged") from None
        if version != FORMAT:
            raise ArchiveError(f"it has format {version}, this version of transformers_pat reads format {FORMAT}")
        return info

    @property
    def bits(self) -> tuple[int, ...]:
        """Bits per code of each level."""
        return tuple(map(bit_width, self.codebook_sizes))

    def grids(self, patch_grid: tuple[int, int]) -> list[tuple[int, int]]:
        """Rows and columns of codes of each level, of a photo of so many patches."""
        return [level_grid(patch_grid, stride) for stride in self.level_strides]

    @property
    def schema(self) -> pa.Schema:
        """Columns of a shard; docs/archive.md explains them."""
        numbers = ("width", "height", "grid_height", "grid_width")
        fields = [("source", pa.string()), ("sha256", pa.binary(32)), *((name, pa.int32()) for name in numbers)]
        fields += [(f"codes_{level}", pa.binary()) for level in range(len(self.codebook_sizes))]
        return pa.schema(
            [pa.field(*field, nullable=False) for field in fields], {METADATA_KEY: self.to_json().encode()}
        )


@dataclass
class TokenizedPhoto:
    """
    A photo as an archive keeps it.

    Args:
        source: Where it came from: path, URL or number of a row.
        sha256: Hash of the file, 32 bytes; for a photo without a file of its pixels.
        width, height: Size of the upright photo in pixels.
        patch_size: Side of a patch in pixels.
        patch_grid: Rows and columns of patches that the tokenizer saw.
        codes: (rows, columns) integers of each level, coarsest first.
    """

    source: str
    sha256: bytes
    width: int
    height: int
    patch_size: int
    patch_grid: tuple[int, int]
    codes: tuple[np.ndarray, ...]

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width in pixels that the tokenizer saw."""
        return self.patch_grid[0] * self.patch_size, self.patch_grid[1] * self.patch_size

    def to_pipeline(self) -> dict[str, Any]:
        """What the segmentation pipeline takes in place of the photo; its masks have the photo's size."""
        return {"codes": self.codes, "size": (self.height, self.width), "output_size": self.pixels}

    def to_tensors(self) -> list[torch.Tensor]:
        """The codes as the model takes them, (1, rows, columns) int64 per level."""
        return [torch.from_numpy(level.astype(np.int64))[None] for level in self.codes]


def to_table(photos: list[TokenizedPhoto], info: ArchiveInfo) -> pa.Table:
    """
    Rows of a shard.

    Raises:
        ValueError: If codes are out of range or don't fill their level's grid.
    """
    columns: dict[str, list] = {name: [] for name in info.schema.names}
    for photo in photos:
        columns["source"].append(photo.source)
        columns["sha256"].append(photo.sha256)
        columns["width"].append(photo.width)
        columns["height"].append(photo.height)
        columns["grid_height"].append(photo.patch_grid[0])
        columns["grid_width"].append(photo.patch_grid[1])
        for level, grid in enumerate(info.grids(photo.patch_grid)):
            codes = np.asarray(photo.codes[level])
            if codes.shape != grid:
                raise ValueError(f"{photo.source!r}: codes of level {level} should be {grid}, got {codes.shape}")
            if codes.size and not 0 <= codes.min() <= codes.max() < info.codebook_sizes[level]:
                raise ValueError(f"{photo.source!r}: codes of level {level} don't fit in {info.codebook_sizes[level]}")
            columns[f"codes_{level}"].append(pack(codes.reshape(1, -1), info.bits[level])[0].tobytes())
    return pa.table(columns, schema=info.schema)


def to_photos(table: pa.Table, info: ArchiveInfo) -> list[TokenizedPhoto]:
    """The photos of a shard's rows."""
    return [_to_photo(row, info) for row in table.to_pylist()]


def _to_photo(row: dict[str, Any], info: ArchiveInfo) -> TokenizedPhoto:
    patch_grid = (row["grid_height"], row["grid_width"])
    levels = unpack_levels([[row[f"codes_{level}"]] for level in range(len(info.bits))], patch_grid, info)
    codes = tuple(level[0] for level in levels)
    return TokenizedPhoto(
        row["source"], row["sha256"], row["width"], row["height"], info.patch_size, patch_grid, codes
    )


def unpack_levels(packed: list[list[bytes]], patch_grid: tuple[int, int], info: ArchiveInfo) -> list[np.ndarray]:
    """
    Codes of photos of one grid.

    Args:
        packed: For each level the column's bytes, one entry per photo.
        patch_grid: Rows and columns of patches.
        info: What the codes are.

    Returns:
        (photos, rows, columns) uint16 of each level.
    """
    levels = []
    for column, bits, (rows, columns) in zip(packed, info.bits, info.grids(patch_grid), strict=True):
        joined = np.frombuffer(b"".join(column), dtype=np.uint8).reshape(len(column), -1)
        levels.append(unpack(joined, bits, rows * columns).reshape(len(column), rows, columns))
    return levels


def write_whole(filesystem, path: str, content: bytes) -> None:
    """Write a file whole or not at all, whoever else writes it; `filesystem` is one of fsspec's."""
    folder, name = path.rsplit("/", 1)
    partial = f"{folder}/.{name}.{os.getpid()}.partial"
    try:
        with filesystem.open(partial, "wb") as file:
            file.write(content)
    except OSError:  # on a full disk, what is of no use should not take more of it
        with contextlib.suppress(OSError):
            filesystem.rm(partial)
        raise
    filesystem.mv(partial, path)


def write_shard(filesystem, folder: str, number: int, table: pa.Table) -> str:
    """Write a shard whole or not at all; returns its path. `filesystem` is one of fsspec's."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content = sink.getvalue().to_pybytes()
    path = f"{folder}/part-{number:06d}-{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    write_whole(filesystem, path, content)
    return path


def read_shard(filesystem, path: str, info: ArchiveInfo) -> pa.Table:
    """
    All rows of a shard, after a check that its bytes are those that were written.

    Raises:
        ArchiveError: If it is truncated, changed, of another archive or no shard at all.
    """
    name = path.rsplit("/", 1)[-1]
    match = NAME.fullmatch(name)
    if match is None:
        raise ArchiveError(f"{path} is no shard: its name should be like part-000000-0123456789abcdef.parquet")
    with filesystem.open(path, "rb") as file:
        content = file.read()
    if hashlib.sha256(content).hexdigest()[:16] != match[2]:
        raise ArchiveError(f"{path} is damaged: its bytes are not those that were written")
    try:
        table = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        table.validate(full=True)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise ArchiveError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from None
    if not table.schema.equals(info.schema, check_metadata=False):
        raise ArchiveError(f"{path} has other columns than this archive")
    own = ArchiveInfo.from_json((table.schema.metadata or {}).get(METADATA_KEY, b""))
    if own != info:
        raise ArchiveError(f"{path} is of another archive: its codes are of checkpoint {own.checkpoint}")
    return table


def count_rows(filesystem, path: str) -> int:
    """
    Number of rows, from the footer alone.

    Raises:
        ArchiveError: If it is no Parquet file.
    """
    try:
        with filesystem.open(path, "rb") as file:
            return pq.read_metadata(file).num_rows
    except (pa.ArrowException, ValueError, OSError) as error:
        raise ArchiveError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from None


def check_rows(table: pa.Table, info: ArchiveInfo) -> None:
    """
    Check that every row's codes fill its grid.

    Raises:
        ArchiveError: If a row's don't; by name.
    """
    for row in table.to_pylist():
        for level, (rows, columns) in enumerate(info.grids((row["grid_height"], row["grid_width"]))):
            size = packed_size(rows * columns, info.bits[level])
            if len(row[f"codes_{level}"]) != size:
                raise ArchiveError(
                    f"{row['source']!r}: level {level} has {len(row[f'codes_{level}'])} bytes, not {size}"
                )
