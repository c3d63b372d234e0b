"""Photos into an archive: planned once, done in parts, by any number of processes, and resumed wherever it stopped."""

import hashlib
import io
import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..checkpoint_pat import hash_weights
from ..image_io_pat import load_photo
from ..modeling_pat import PatModel
from .archive import PHOTOS_PER_SHARD, TokenArchive
from .shards import ArchiveInfo, TokenizedPhoto, write_whole
from .sources import PhotoSource, read_file


def describe(model: PatModel, checkpoint: str) -> ArchiveInfo:
    """What the codes of a model are. The decoder's weights don't count: they change no code."""
    config = model.config
    parts = ("vision_model.", "visual_projection.", "encoders.", "codebooks.")
    weights = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(parts)}
    statistics = (".embed_sum", ".cluster_size", ".num_updates")
    return ArchiveInfo(
        fingerprint=hash_weights({name: x for name, x in weights.items() if not name.endswith(statistics)}),
        checkpoint=checkpoint,
        patch_size=config.vision_config.patch_size,
        level_strides=tuple(map(float, config.level_strides)),
        codebook_sizes=tuple(config.codebook_sizes),
    )


@dataclass
class Part:
    """A part of a plan: the photos of one shard."""

    number: int
    sources: list[str]


def plan(archive: TokenArchive, sources: Sequence[str], photos_per_shard: int = PHOTOS_PER_SHARD) -> list[Part]:
    """
    Divide the sources into parts, in the order given and each source once.

    The plan is kept in the archive, so that a second call, or another process, with the same sources gets the same
    parts. Sources of earlier plans are left out.
    """
    sources = list(dict.fromkeys(sources))
    filesystem, folder = archive.filesystem, archive.path_of("plans")
    path = f"{folder}/{hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:16]}.json"
    filesystem.makedirs(folder, exist_ok=True)
    with _lock(archive, "plans"):
        if not filesystem.exists(path):
            earlier = [part for other in filesystem.glob(f"{folder}/*.json") for part in _read_json(filesystem, other)]
            known = {source for part in earlier for source in part["sources"]}
            used = archive.numbers() | {part["number"] for part in earlier}
            new, first = [source for source in sources if source not in known], max(used, default=-1) + 1
            parts = [
                {"number": first + index, "sources": new[start : start + photos_per_shard]}
                for index, start in enumerate(range(0, len(new), photos_per_shard))
            ]
            write_whole(filesystem, path, json.dumps(parts).encode())
    return [Part(**part) for part in _read_json(filesystem, path)]


def _read_json(filesystem, path: str) -> list[dict]:
    with filesystem.open(path, "rb") as file:
        return json.load(file)


def _lock(archive: TokenArchive, name: str, blocking: bool = True) -> AbstractContextManager:
    """A lock that other processes see; remote file systems have none, there one command works at a time."""
    if not archive.is_local:
        return nullcontext()
    folder = Path(archive.path_of("locks"))
    folder.mkdir(exist_ok=True)
    return FileLock(folder / f"{name}.lock", blocking=blocking)


class ReadPhoto(NamedTuple):
    """A photo before it is encoded."""

    source: str
    sha256: bytes
    size: tuple[int, int]  # width and height of the upright photo
    pixel_values: torch.Tensor  # (3, H, W)


class Rejected(NamedTuple):
    """A source that can't be read, and why, in one line."""

    source: str
    reason: str


class Tokenizer:
    """
    Turns photos into the rows of an archive.

    Args:
        model: The tokenizer, in eval mode.
        image_processor: Its image processor.
        batch_size: Photos of one size that run together; the codes don't depend on it but for ties within float
            rounding.
        workers: Threads that read photos, while the model works on those before.
        read: Bytes of a photo by its name.
    """

    def __init__(
        self,
        model: PatModel,
        image_processor,
        batch_size: int = 8,
        workers: int = 2,
        read: PhotoSource = read_file,
    ):
        self.model, self.image_processor, self.batch_size = model, image_processor, batch_size
        self.workers, self.read = workers, read

    def __call__(self, sources: Sequence[str]) -> Iterator[tuple[int, TokenizedPhoto | Rejected]]:
        """The photos, or why one can't be read, each with its index in `sources`; in the order of being done."""
        waiting: dict[torch.Size, list[tuple[int, ReadPhoto]]] = {}
        for index, photo in enumerate(self._read_ahead(sources)):
            if isinstance(photo, Rejected):
                yield index, photo
                continue
            group = waiting.setdefault(photo.pixel_values.shape, [])
            group.append((index, photo))
            if len(group) == self.batch_size:
                yield from self._encode(waiting.pop(photo.pixel_values.shape))
        for group in waiting.values():
            yield from self._encode(group)

    def _read_ahead(self, sources: Sequence[str]) -> Iterator[ReadPhoto | Rejected]:
        """The photos in order; a few more than the model can take at a time are read ahead of it."""
        with ThreadPoolExecutor(self.workers) as pool:
            pending: deque[Future[ReadPhoto | Rejected]] = deque()
            for source in sources:
                pending.append(pool.submit(self._read, source))
                if len(pending) > 2 * self.batch_size:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def _read(self, source: str) -> ReadPhoto | Rejected:
        try:
            content = self.read(source)
            photo = load_photo(io.BytesIO(content))
            pixel_values = self.image_processor(photo, return_tensors="pt")["pixel_values"][0]
        except (OSError, ValueError) as error:
            return Rejected(source, str(error).splitlines()[0])
        return ReadPhoto(source, hashlib.sha256(content).digest(), photo.size, pixel_values)

    def _encode(self, group: list[tuple[int, ReadPhoto]]) -> Iterator[tuple[int, TokenizedPhoto]]:
        """Photos of one size."""
        numbers, photos = zip(*group, strict=True)
        return zip(numbers, encode_photos(self.model, photos), strict=True)


@torch.inference_mode()
def encode_photos(model: PatModel, photos: Sequence[ReadPhoto]) -> list[TokenizedPhoto]:
    """The codes of photos whose `pixel_values` have one size."""
    pixel_values = torch.stack([photo.pixel_values for photo in photos]).to(model.device)
    levels = [level.cpu().numpy() for level in model.encode(pixel_values).codes]
    patch_size = model.config.vision_config.patch_size
    rows, columns = (-(-side // patch_size) for side in pixel_values.shape[-2:])
    return [
        TokenizedPhoto(
            photo.source,
            photo.sha256,
            *photo.size,
            patch_size,
            (rows, columns),
            tuple(level[row] for level in levels),
        )
        for row, photo in enumerate(photos)
    ]


def tokenize(archive: TokenArchive, tokenizer: Tokenizer, parts: Sequence[Part], progress: bool = True) -> None:
    """
    Do all parts that are not done and that no other process is doing.

    A part ends as one shard, written whole, after a file `rejected-NUMBER.jsonl` with the sources that could not be
    read and why. What was being done when a process was killed is done again by the next one.
    """
    with tqdm(total=sum(len(part.sources) for part in parts), unit="photo", disable=not progress) as bar:
        for part in parts:
            try:
                with _lock(archive, f"{part.number:06d}", blocking=False):
                    if part.number not in archive.numbers():
                        _do(archive, tokenizer, part, bar)
                    else:
                        bar.update(len(part.sources))
            except Timeout:
                continue  # another process has it


def _do(archive: TokenArchive, tokenizer: Tokenizer, part: Part, bar: tqdm) -> None:
    results: dict[int, TokenizedPhoto | Rejected] = {}
    for index, result in tokenizer(part.sources):
        results[index] = result
        bar.update()
    ordered = [results[index] for index in range(len(part.sources))]
    rejected = [result._asdict() for result in ordered if isinstance(result, Rejected)]
    photos = [result for result in ordered if isinstance(result, TokenizedPhoto)]
    if rejected:
        lines = "".join(json.dumps(one) + "\n" for one in rejected)
        write_whole(archive.filesystem, archive.path_of(f"rejected-{part.number:06d}.jsonl"), lines.encode())
    shard = archive.write(part.number, photos)
    if photos:
        bar.set_postfix_str(f"{archive.filesystem.size(shard) / len(photos):.0f} bytes per photo")
