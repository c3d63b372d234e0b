"""
Segment by any words without PyTorch: runs what `transformers-pat export` wrote, with ONNX Runtime.

    from transformers_pat.onnx import OnnxSegmenter
    segment = OnnxSegmenter("exported")
    segment("street.jpg", candidate_labels=["road", "car", "tree;bush"])

Needs the extra `onnx`. Neither torch nor transformers is imported.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .image_io_pat import load_photo, size_for_windows, target_size, to_rgb, window_starts
from .prompts_pat import (
    BACKGROUND,
    LEARNED,
    build_prompts,
    check_background,
    check_labels,
    resolve_templates,
    split_candidate_labels,
)

FACTS_FILE = "pat_onnx.json"
FORMAT_VERSION = 2
GRAPHS = ("image", "segment", "codes", "text")


@dataclass(frozen=True)
class Facts:
    """
    What the graphs don't say, as it is written to `pat_onnx.json`.

    Args:
        size: As in the image processor: `shortest_edge` and/or `longest_edge`, or `height` and `width`.
        size_divisor: Sides of what the image graph reads are multiples of this.
        resample: Pillow's number of the filter.
        image_mean, image_std: Of RGB values from 0 to 1.
        prompt_templates: The checkpoint's own, with {} where the label goes.
        pad_token_id: Fills prompts after their end.
        max_prompt_tokens: Longest prompt.
        codebook_sizes: Number of codes of each level, coarsest first.
        background_embed: The class embedding of the learned background.
        format_version: Of this file and the graphs' inputs and outputs.
    """

    size: dict[str, int]
    size_divisor: int
    resample: int
    image_mean: list[float]
    image_std: list[float]
    prompt_templates: list[str]
    pad_token_id: int
    max_prompt_tokens: int
    codebook_sizes: list[int]
    background_embed: list[float]
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        whole = [self.size_divisor, self.pad_token_id, self.max_prompt_tokens, *self.codebook_sizes]
        if not all(isinstance(number, int) and number >= 0 for number in [*whole, *self.size.values()]):
            raise ValueError("sizes and numbers of tokens must be whole numbers")
        target_size(1, 1, self.size, self.size_divisor)
        Image.Resampling(self.resample)
        if len(self.image_mean) != 3 or len(self.image_std) != 3:
            raise ValueError("image_mean and image_std need three numbers each")
        if not all(isinstance(x, (int, float)) for x in [*self.image_mean, *self.image_std, *self.background_embed]):
            raise ValueError("image_mean, image_std and background_embed must be numbers")
        resolve_templates(self.prompt_templates)

    def save(self, folder: Path) -> None:
        """Write the file into an existing folder."""
        (folder / FACTS_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Facts":
        """Read the file; `ValueError` if the folder has none, or one of another version."""
        path = folder / FACTS_FILE
        if not path.is_file():
            raise ValueError(
                f"{str(folder)!r} is no exported checkpoint: it has no {FACTS_FILE} (transformers-pat export)"
            )
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            version = fields["format_version"]
            facts = cls(**fields) if version == FORMAT_VERSION else None
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        if facts is None:
            raise ValueError(
                f"{path} has format version {version}, this package reads {FORMAT_VERSION}: "
                "export the checkpoint again"
            )
        return facts


class OnnxSegmenter:
    """
    Open-vocabulary segmentation of photos and of stored codes.

    Args:
        folder: What `transformers-pat export` wrote.
        num_threads: Of ONNX Runtime; by default one per core.

    Raises:
        ValueError: If the folder was not exported by this package, or one of its files is missing or damaged.
    """

    def __init__(self, folder: str | Path, num_threads: int = 0):
        self.folder = Path(folder)
        self.facts = Facts.load(self.folder)
        self.tokenizer = _open_tokenizer(self.folder / "tokenizer.json", self.facts.pad_token_id)
        self._sessions = {name: _open_graph(self.folder / f"{name}.onnx", num_threads) for name in GRAPHS}
        if len(self.facts.background_embed) != self._sessions["text"].get_outputs()[0].shape[1]:
            raise ValueError(f"{self.folder / FACTS_FILE} is damaged: background_embed is not of the words' size")
        self._embeds: dict[tuple, np.ndarray] = {}

    def __call__(
        self,
        photo,
        candidate_labels: list[str] | str,
        background: str | float | list[str] | None = None,
        templates: str | list[str] | None = None,
        window_size: int | None = None,
    ) -> list[dict]:
        """
        Segment one photo, as the `zero-shot-image-segmentation` pipeline does.

        Args:
            photo: A path, a PIL image, or stored codes as `{"codes": [...], "size": (height, width)}`.
            candidate_labels: The words; ";" separates synonyms.
            background: See [`PatSegmentationPipeline`].
            templates: Prompt templates in place of the checkpoint's own.
            window_size: Side of windows that slide over the photo at its own resolution by half a window, a multiple
                of two patches.

        Returns:
            The masks, largest first: `label`, `mask` (PIL, mode L, 0 or 255, of the photo's size) and `score`, the
            mean probability of the mask's pixels, 0 to 1.

        Raises:
            ValueError: If the photo can't be read, or labels, background, templates or windows are not usable.
        """
        if window_size is not None:
            check_window(window_size, self.facts.size_divisor)
            if isinstance(photo, dict):
                raise ValueError("windows need the photo itself: stored codes have the size that was tokenised")
        split = split_candidate_labels(candidate_labels) if isinstance(candidate_labels, str) else candidate_labels
        labels = check_labels(split)
        if background is not None:
            background = check_background(background)
            if BACKGROUND in [label.casefold() for label in labels]:
                raise ValueError(f"{BACKGROUND!r} is both a label and what background= adds: give one of them")
        words = check_labels(labels + background) if isinstance(background, list) else labels
        class_embeds = self.get_class_embeds(words, templates)
        if background == LEARNED:
            class_embeds = np.concatenate([class_embeds, np.array([self.facts.background_embed], dtype=np.float32)])
        if isinstance(photo, dict):
            logits, size = self.segment_codes(photo["codes"], class_embeds), tuple(photo["size"])
        else:
            image = to_rgb(load_photo(photo))
            pixel_values, size = self.to_pixel_values(image, window_size is not None), (image.height, image.width)
            if window_size is None:
                logits = self.segment(*self.read(pixel_values), class_embeds)
            else:
                logits = self.segment_windows(pixel_values, class_embeds, window_size)
        return _masks(*_resize_and_choose(logits[0], size), labels, background)

    def get_class_embeds(self, labels: list[str], templates: str | list[str] | None = None) -> np.ndarray:
        """Class embeddings of words, (num_labels, projection_dim), unit length; each word is encoded once."""
        chosen = resolve_templates(self.facts.prompt_templates if templates is None else templates)
        missing = [label for label in labels if (label, chosen) not in self._embeds]
        if missing:
            prompts, owners = build_prompts(missing, chosen)
            try:
                encoded = self.tokenizer.encode_batch(prompts)
            except Exception as error:  # tokenizers raises bare exceptions
                raise ValueError(f"{self.folder / 'tokenizer.json'} is damaged: {error}") from None
            for owner, prompt in zip(owners, encoded, strict=True):
                if sum(prompt.attention_mask) > self.facts.max_prompt_tokens:
                    raise ValueError(
                        f"label {missing[owner][:60]!r} gives a prompt of {sum(prompt.attention_mask)} tokens and the "
                        f"text tower reads {self.facts.max_prompt_tokens}: shorten the label or its template"
                    )
            (embeds,) = self._run("text", np.array([prompt.ids for prompt in encoded], dtype=np.int64))
            sums = np.zeros((len(missing), embeds.shape[1]), dtype=np.float32)
            np.add.at(sums, owners, embeds)
            sums /= np.linalg.norm(sums, axis=1, keepdims=True)
            self._embeds.update(((label, chosen), row) for label, row in zip(missing, sums, strict=True))
        return np.stack([self._embeds[label, chosen] for label in labels])

    def to_pixel_values(self, image: Image.Image, for_windows: bool = False) -> np.ndarray:
        """An RGB photo as the image graph reads it, (1, 3, height, width) float32; not made smaller for windows."""
        facts, size = self.facts, self.facts.size
        if for_windows:
            size = size_for_windows(image.height, image.width, size, facts.size_divisor)
        height, width = target_size(image.height, image.width, size, facts.size_divisor)
        pixels = np.asarray(image.resize((width, height), Image.Resampling(facts.resample)), dtype=np.float32) / 255
        normalized = (pixels - np.asarray(facts.image_mean, np.float32)) / np.asarray(facts.image_std, np.float32)
        return np.ascontiguousarray(normalized.transpose(2, 0, 1)[None])

    def read(self, pixel_values: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """
        What [`segment`] needs of images, whatever the words.

        Args:
            pixel_values: As [`to_pixel_values`] makes them, several of one size at will.

        Returns:
            Dense embeddings (batch, height, width, dim), and the codes of each level, (batch, rows, columns) int64.
        """
        dense_embeds, *codes = self._run("image", pixel_values)
        return dense_embeds, codes

    def segment(self, dense_embeds: np.ndarray, codes: list[np.ndarray], class_embeds: np.ndarray) -> np.ndarray:
        """Logits (batch, num_labels, h, w) of images that were read, for any words."""
        return self._run("segment", dense_embeds, *codes, class_embeds)[0]

    def segment_windows(self, pixel_values: np.ndarray, class_embeds: np.ndarray, window_size: int) -> np.ndarray:
        """Logits (batch, num_labels, h, w) of `to_pixel_values`' images, averaged where windows overlap by half."""
        size, stride = pixel_values.shape[2:], window_size // 2
        total = weight = np.zeros(0)
        for top in window_starts(size[0], window_size, stride):
            for left in window_starts(size[1], window_size, stride):
                window = pixel_values[:, :, top : top + window_size, left : left + window_size]
                logits = self.segment(*self.read(window), class_embeds)
                if not total.size:
                    cell = window.shape[2] // logits.shape[2]
                    total = np.zeros((*logits.shape[:2], size[0] // cell, size[1] // cell), dtype=np.float32)
                    weight = np.zeros(total.shape[2:], dtype=np.float32)
                rows, columns = (
                    slice(start // cell, start // cell + side)
                    for start, side in zip((top, left), logits.shape[2:], strict=True)
                )
                total[:, :, rows, columns] += logits
                weight[rows, columns] += 1
        return total / weight

    def encode(self, photo) -> list[np.ndarray]:
        """The codes of a photo, (1, rows, columns) int64 per level, coarsest first."""
        return self.read(self.to_pixel_values(to_rgb(load_photo(photo))))[1]

    def segment_codes(self, codes: list, class_embeds: np.ndarray) -> np.ndarray:
        """Logits (batch, num_labels, h, w) of stored codes, (rows, columns) or (batch, rows, columns) per level."""
        checked = self._check_codes(codes)
        return self.segment(self._decode(checked)[0], checked, class_embeds)

    def decode(self, codes: list, num_levels: int | None = None) -> Image.Image:
        """The picture that stored codes of one photo decode to; of the coarsest `num_levels` levels only at will."""
        pixels = self._decode(self._check_codes(codes), num_levels)[1][0].transpose(1, 2, 0)
        values = (pixels * self.facts.image_std + self.facts.image_mean) * 255
        return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))

    def _decode(self, codes: list[np.ndarray], num_levels: int | None = None) -> list[np.ndarray]:
        num_levels = len(codes) if num_levels is None else num_levels
        if not 1 <= num_levels <= len(codes):
            raise ValueError(f"num_levels must be 1 to {len(codes)}, got {num_levels}")
        return self._run("codes", *codes, np.arange(len(codes)) < num_levels)

    def _check_codes(self, codes: list) -> list[np.ndarray]:
        sizes = self.facts.codebook_sizes
        if len(codes) != len(sizes):
            raise ValueError(f"expected codes of {len(sizes)} levels, got {len(codes)}")
        levels = []
        for number, (level, size) in enumerate(zip(codes, sizes, strict=True)):
            level = np.asarray(level)
            level = level[None] if level.ndim == 2 else level
            if level.ndim != 3 or level.dtype.kind not in "iu":
                raise ValueError(f"codes of level {number} must be a (rows, columns) grid of integers")
            if level.size == 0 or level.min() < 0 or level.max() >= size:
                raise ValueError(
                    f"codes of level {number} must lie in 0..{size - 1}: were they made by another model?"
                )
            levels.append(level.astype(np.int64))
        return levels

    def _run(self, graph: str, *inputs: np.ndarray) -> list[np.ndarray]:
        session = self._sessions[graph]
        names = [node.name for node in session.get_inputs()]
        try:
            return session.run(None, dict(zip(names, inputs, strict=True)))
        except Exception as error:  # ONNX Runtime's own, which share no base
            reason = str(error).splitlines()[0]
            raise ValueError(f"{self.folder / graph}.onnx does not fit what it was given: {reason}") from error


def _open_tokenizer(path: Path, pad_token_id: int):
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare exceptions
        raise ValueError(f"{path} is missing or damaged: {error}") from None
    tokenizer.no_truncation()
    tokenizer.enable_padding(pad_id=pad_token_id)
    return tokenizer


def _open_graph(path: Path, num_threads: int):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own, which share no base
        raise ValueError(f"{path} is missing or damaged: export the checkpoint again ({error})") from None


def check_window(window_size: int, patch_size: int) -> None:
    """Raise `ValueError` unless windows that overlap by half start and end between patches."""
    if not isinstance(window_size, int) or window_size < 1 or window_size % (2 * patch_size):
        raise ValueError(
            f"the window must be a multiple of {2 * patch_size} pixels (two patches), got {window_size!r}"
        )


def _resize_and_choose(logits: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(num_labels, h, w) to the best label of each pixel of `size`, and its softmax probability; label by label."""
    rows, columns = (_bilinear_weights(old, new) for old, new in zip(logits.shape[1:], size, strict=True))
    best = np.full(size, -np.inf, dtype=np.float32)
    total, winner = np.zeros(size, dtype=np.float32), np.zeros(size, dtype=np.int64)
    for label, coarse in enumerate(logits):
        resized = rows @ coarse @ columns.T
        higher = np.maximum(best, resized)
        total = total * np.exp(best - higher) + np.exp(resized - higher)
        winner[resized > best] = label  # a tie stays with the earlier label
        best = higher
    return winner, 1 / total


def _bilinear_weights(old: int, new: int) -> np.ndarray:
    """The (new, old) matrix of bilinear resizing as torch does it with `align_corners=False`."""
    source = ((np.arange(new, dtype=np.float32) + 0.5) * np.float32(old / new) - 0.5).clip(0)
    first = source.astype(int).clip(max=old - 1)
    second, share = (first + 1).clip(max=old - 1), source - first
    weights = np.zeros((new, old), dtype=np.float32)
    np.add.at(weights, (np.arange(new), first), 1 - share)
    np.add.at(weights, (np.arange(new), second), share)
    return weights


def _masks(winner: np.ndarray, scores: np.ndarray, labels: list[str], background) -> list[dict]:
    names = list(labels)
    if background is not None:
        names.append(BACKGROUND)
        # Labels come first, then distractors or the learned background; all of these end in the last index.
        by_score = isinstance(background, float)
        outside = scores < background if by_score else winner >= len(labels)
        winner = np.where(outside, len(labels), winner)
        scores = np.where(outside, 1 - scores, scores) if by_score else scores
    areas = np.bincount(winner.ravel(), minlength=len(names))
    sums = np.bincount(winner.ravel(), weights=scores.ravel(), minlength=len(names))
    order = sorted(np.flatnonzero(areas).tolist(), key=lambda index: -areas[index])
    return [
        {
            "score": float(sums[index] / areas[index]),
            "label": names[index],
            "mask": Image.fromarray((winner == index).astype(np.uint8) * 255),
        }
        for index in order
    ]
