"""Photos into an archive: planned once, done in parts, by any number of processes, and resumed wherever it stopped."""

import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..checkpoint_pat import hash_weights
from ..image_io_pat import load_photo
from ..modeling_pat import PatModel
from .archive import PHOTOS_PER_SHARD, TokenArchive
from .shards import ArchiveInfo, TokenizedPhoto, write_whole


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
    name = hashlib.sha256("\n".join(sources).encode()).hexdigest()[:16]
    folder = Path(archive.path, "plans")
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    with FileLock(folder / ".lock"):
        if not path.is_file():
            earlier = [json.loads(other.read_text(encoding="utf-8")) for other in folder.glob("*.json")]
            known = {source for parts in earlier for part in parts for source in part["sources"]}
            used = archive.numbers() | {part["number"] for parts in earlier for part in parts}
            new, first = [source for source in sources if source not in known], max(used, default=-1) + 1
            starts = range(0, len(new), photos_per_shard)
            parts = [
                {"number": first + index, "sources": new[start : start + photos_per_shard]}
                for index, start in enumerate(starts)
            ]
            write_whole(archive.filesystem, path.as_posix(), json.dumps(parts).encode())
    return [Part(**part) for part in json.loads(path.read_text(encoding="utf-8"))]


class Tokenizer:
    """
    Turns photos into the rows of an archive.

    Args:
        model: The tokenizer, in eval mode.
        image_processor: Its image processor.
        batch_size: Photos of one size that run together; the codes don't depend on it.
        workers: Threads that read photos.
    """

    def __init__(self, model: PatModel, image_processor, batch_size: int = 8, workers: int = 2):
        self.model, self.image_processor, self.batch_size, self.workers = model, image_processor, batch_size, workers

    def __call__(self, sources: Sequence[str]) -> Iterator[TokenizedPhoto | tuple[str, str]]:
        """The photos in the order of `sources`; (source, reason) for one that can't be read."""
        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(sources), self.batch_size):
                batch = list(pool.map(self._read, sources[start : start + self.batch_size]))
                yield from self._encode(batch)

    def _read(self, source: str) -> tuple[str, bytes, tuple[int, int], torch.Tensor] | tuple[str, str]:
        """Source, hash, (width, height) and pixel values (3, H, W), or source and reason."""
        try:
            content = Path(source).read_bytes()
            photo = load_photo(io.BytesIO(content))
            pixel_values = self.image_processor(photo, return_tensors="pt")["pixel_values"][0]
        except (OSError, ValueError) as error:
            return source, str(error).splitlines()[0]
        return source, hashlib.sha256(content).digest(), photo.size, pixel_values

    @torch.inference_mode()
    def _encode(self, batch: list) -> list[TokenizedPhoto | tuple[str, str]]:
        results: list = list(batch)
        sizes: dict[tuple, list[int]] = {}
        for index, item in enumerate(batch):
            if len(item) > 2:
                sizes.setdefault(tuple(item[3].shape), []).append(index)
        for shape, indices in sizes.items():
            pixel_values = torch.stack([batch[index][3] for index in indices]).to(self.model.device)
            codes = [level.cpu().numpy() for level in self.model.encode(pixel_values).codes]
            rows, columns = (-(-side // self.model.config.vision_config.patch_size) for side in shape[-2:])
            for row, index in enumerate(indices):
                source, sha256, (width, height), _ = batch[index]
                of_photo = tuple(level[row] for level in codes)
                results[index] = TokenizedPhoto(source, sha256, width, height, (rows, columns), of_photo)
        return results


def tokenize(archive: TokenArchive, tokenizer: Tokenizer, parts: Sequence[Part], progress: bool = True) -> None:
    """
    Do all parts that are not done and that no other process is doing.

    A part ends as one shard, written whole, after a file `rejected-NUMBER.jsonl` with the sources that could not be
    read and why. What was being done when a process was killed is done again by the next one.
    """
    total = sum(len(part.sources) for part in parts)
    locks = Path(archive.path, "locks")
    locks.mkdir(exist_ok=True)
    with tqdm(total=total, unit="photo", disable=not progress) as bar:
        for part in parts:
            try:
                with FileLock(locks / f"{part.number:06d}.lock", blocking=False):
                    if part.number not in archive.numbers():
                        _do(archive, tokenizer, part, bar)
                    else:
                        bar.update(len(part.sources))
            except Timeout:
                continue  # another process has it


def _do(archive: TokenArchive, tokenizer: Tokenizer, part: Part, bar: tqdm) -> None:
    photos: list[TokenizedPhoto] = []
    rejected: list[tuple[str, str]] = []
    for result in tokenizer(part.sources):
        if isinstance(result, TokenizedPhoto):
            photos.append(result)
        else:
            rejected.append(result)
        bar.update()
    if rejected:
        path = Path(archive.path, f"rejected-{part.number:06d}.jsonl")
        lines = [json.dumps({"source": source, "reason": reason}) for source, reason in rejected]
        write_whole(archive.filesystem, path.as_posix(), ("\n".join(lines) + "\n").encode())
    archive.write(part.number, photos)
