"""From low-resolution class logits to full-resolution label maps, in bounded memory."""

import math

import torch
from torch.nn import functional as F

# Our choices, by measurement: the map is made tile by tile, and a tile for so many labels at a time that they stay in
# the processor's cache.
TILE_SIDE = 256
TILE_CELLS = 64
CHUNK_BYTES = 4 * 2**20


def _weights(old: int, new: int, device: torch.device) -> torch.Tensor:
    """The `(new, old)` matrix of bilinear resizing with `align_corners=False`, computed as torch does."""
    source = (torch.arange(new, device=device, dtype=torch.float32) + 0.5) * (old / new) - 0.5
    source = source.clamp(min=0)
    first = source.long()
    second = (first + 1).clamp(max=old - 1)
    weights = torch.zeros(new, old, device=device)
    weights.scatter_add_(1, first[:, None], (1 - (source - first))[:, None])
    return weights.scatter_add_(1, second[:, None], (source - first)[:, None])


def _tiles(weights: torch.Tensor):
    """Cuts a weight matrix into bands: yields the rows' slice, the slice of columns they use, and that band."""
    new, old = weights.shape
    step = max(1, min(TILE_SIDE, TILE_CELLS * new // old))
    for start in range(0, new, step):
        band = weights[start : start + step]
        used = band.any(dim=0).nonzero()
        columns = slice(int(used[0]), int(used[-1]) + 1)
        yield slice(start, start + step), columns, band[:, columns]


def _contenders(logits: torch.Tensor, margin: float) -> torch.Tensor:
    """
    Indices, ascending, of the labels that come within `margin` of the best label somewhere in the resized logits.

    A bilinear value lies between the least and the greatest of its four corners. So where a label's greatest corner
    is below the best label's least corner, that label cannot win, whatever the target size.
    """
    window = [min(2, side) for side in logits.shape[-2:]]
    greatest = F.max_pool2d(logits[None], window, stride=1)[0]
    least = -F.max_pool2d(-logits[None], window, stride=1)[0]
    floor = least.amax(dim=0) - margin - 1e-5 * logits.abs().max()  # the resized values are rounded
    return (greatest >= floor).flatten(1).any(dim=1).nonzero().flatten()


def _segment_tile(logits: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, with_scores: bool):
    """`segment` of one tile, whose resized logits are `rows @ logits @ columns.T`."""
    # Labels left out of the softmax's sum add less than exp(-14) of it together.
    kept = _contenders(logits, margin=14 + math.log(len(logits)) if with_scores else 0.0)
    best = None
    total = winner = torch.empty(0)
    for chunk in kept.split(max(1, CHUNK_BYTES // (4 * len(rows) * len(columns)))):
        resized = rows @ logits[chunk] @ columns.T
        values, indices = resized.max(dim=0)
        indices = chunk[indices]
        if best is None:
            winner, highest = indices, values
        else:  # strictly greater: a tie stays with the earlier label, as argmax does
            winner = torch.where(values > best, indices, winner)
            highest = torch.maximum(values, best)
        if with_scores:
            added = resized.sub_(highest).exp_().sum(dim=0)
            total = added if best is None else total * (best - highest).exp_() + added
        best = highest
    return winner, (total.reciprocal_() if with_scores else None)


def segment(logits: torch.Tensor, size: tuple[int, int], with_scores: bool = False):
    """
    The best label of every pixel of the resized logits, and on request its softmax probability.

    Args:
        logits (`torch.Tensor` of shape `(num_labels, h, w)`): any float dtype; they cover the whole picture.
        size: `(height, width)` of the maps to return.
        with_scores: whether the softmax probability of the winning label is wanted too.

    Returns:
        `(labels, scores)`: int64 `(height, width)` in `[0, num_labels)`, and float32 `(height, width)` in `(0, 1]` or
        `None`. The labels are `argmax` over bilinearly resized logits (`align_corners=False`), a tie going to the
        first; the scores are softmax's. Both up to float rounding (about 1e-6 of the largest logit). Beyond the
        logits and the results, memory does not grow with the number of labels or the size.
    """
    labels = torch.empty(size, dtype=torch.int64, device=logits.device)
    scores = torch.empty(size, device=logits.device) if with_scores else None
    row_weights, column_weights = (
        _weights(old, new, logits.device) for old, new in zip(logits.shape[-2:], size, strict=True)
    )
    for top, ys, rows in _tiles(row_weights):
        for left, xs, columns in _tiles(column_weights):
            winner, score = _segment_tile(logits[:, ys, xs].float(), rows, columns, with_scores)
            labels[top, left] = winner
            if scores is not None:
                scores[top, left] = score
    return labels, scores


def valid_logits(outputs) -> list[torch.Tensor]:
    """
    One `(num_labels, h, w)` tensor per picture, what was computed on padding cut off.

    Raises `ValueError` if `outputs.logits` is missing or not 4-dimensional.
    """
    logits = getattr(outputs, "logits", None)
    if logits is None or logits.ndim != 4:
        raise ValueError("outputs.logits must be a (batch, num_labels, height, width) tensor: give the model labels")
    sizes = getattr(outputs, "logits_sizes", None)
    if sizes is None:
        return list(logits)
    if len(sizes) != len(logits):
        raise ValueError(f"outputs.logits_sizes has {len(sizes)} rows for {len(logits)} pictures")
    return [one[:, :rows, :columns] for one, (rows, columns) in zip(logits, sizes.tolist(), strict=True)]


def check_target_sizes(target_sizes, batch_size: int) -> list[tuple[int, int]]:
    """The target sizes as tuples of ints. Raises `ValueError` on a wrong number of them or a size below 1."""
    if isinstance(target_sizes, torch.Tensor):
        target_sizes = target_sizes.tolist()
    if len(target_sizes) != batch_size:
        raise ValueError(
            f"got {len(target_sizes)} target sizes for a batch of {batch_size}: give one (height, width) per picture"
        )
    sizes = []
    for size in target_sizes:
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"a target size must be (height, width), both at least 1, got {tuple(size)}")
        sizes.append((int(size[0]), int(size[1])))
    return sizes
