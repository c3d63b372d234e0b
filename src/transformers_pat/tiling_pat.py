"""Images of any size: padding to whole patches, sliding windows, batches of mixed sizes, logits without padding."""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
import torch.nn.functional as F

from .image_io_pat import window_starts
from .outputs_pat import LOSS_FIELDS, PatSegmentationOutput


def pad_to_patches(pixel_values: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Repeat the last row and column until (batch, 3, H, W) holds whole patches."""
    height, width = pixel_values.shape[-2:]
    pad_bottom, pad_right = -height % patch_size, -width % patch_size
    if pad_bottom == 0 and pad_right == 0:
        return pixel_values
    return F.pad(pixel_values, (0, pad_right, 0, pad_bottom), mode="replicate")


def crop_to_image(logits: torch.Tensor, image_size: tuple[int, int], patch_size: int) -> torch.Tensor:
    """
    Resample logits of whole patches so that they cover the image and none of its padding.

    Args:
        logits: (batch, num_labels, h, w), covering an image padded to whole patches.
        image_size: Height and width of the image in pixels, before padding.
        patch_size: Side of a patch in pixels.

    Returns:
        (batch, num_labels, h', w') with h' at most h and w' at most w.
    """
    if image_size[0] % patch_size == 0 and image_size[1] % patch_size == 0:
        return logits
    padded = [-(-side // patch_size) * patch_size for side in image_size]
    fraction = [image_size[0] / padded[0], image_size[1] / padded[1]]
    rows, columns = (max(1, round(side * part)) for side, part in zip(logits.shape[-2:], fraction, strict=True))
    # An affine grid over the image's share of the padded picture, which starts at its upper left corner.
    theta = logits.new_tensor([[fraction[1], 0, fraction[1] - 1], [0, fraction[0], fraction[0] - 1]])
    grid = F.affine_grid(theta[None], [1, 1, rows, columns], align_corners=False)
    return F.grid_sample(logits, grid.expand(len(logits), -1, -1, -1), padding_mode="border", align_corners=False)


def segment_by_windows(
    segment: Callable[[torch.Tensor], torch.Tensor], pixel_values: torch.Tensor, window_size: int, stride: int
) -> torch.Tensor:
    """
    Segment an image window by window and average the logits where windows overlap.

    Args:
        segment: From a window's pixels (batch, 3, H, W) to its logits (batch, num_labels, h, w).
        pixel_values: (batch, 3, H, W), whole patches.
        window_size: Side of the windows in pixels.
        stride: Step between windows in pixels, at most `window_size`; both are whole patches.

    Returns:
        Logits of the whole image.
    """
    height, width = pixel_values.shape[-2:]
    total = weight = torch.empty(0)
    cell = 0
    for top in window_starts(height, window_size, stride):
        for left in window_starts(width, window_size, stride):
            window = pixel_values[..., top : top + window_size, left : left + window_size]
            logits = segment(window)
            if cell == 0:
                cell = window.shape[-2] // logits.shape[-2]
                total = logits.new_zeros(*logits.shape[:2], height // cell, width // cell)
                weight = logits.new_zeros(1, 1, height // cell, width // cell)
            rows = slice(top // cell, top // cell + logits.shape[-2])
            columns = slice(left // cell, left // cell + logits.shape[-1])
            total[..., rows, columns] += logits
            weight[..., rows, columns] += 1
    return total / weight


def group_by_size(pixel_mask: torch.Tensor, pixel_values: torch.Tensor) -> Iterator[tuple[list[int], tuple[int, int]]]:
    """
    Find the images of equal size in a padded batch.

    Args:
        pixel_mask: (batch, H, W), 1 where the image is: an upper left rectangle.
        pixel_values: (batch, 3, H, W).

    Yields:
        Rows of the batch and their images' height and width.

    Raises:
        ValueError: If the mask has another shape or marks no upper left rectangle.
    """
    expected = (len(pixel_values), *pixel_values.shape[-2:])
    if tuple(pixel_mask.shape) != expected:
        raise ValueError(f"pixel_mask must be {expected} like pixel_values, got {tuple(pixel_mask.shape)}.")
    sizes = [(int(mask.any(1).sum()), int(mask.any(0).sum())) for mask in pixel_mask]
    for index, (height, width) in enumerate(sizes):
        if height == 0 or not bool(pixel_mask[index, :height, :width].all()):
            raise ValueError(f"pixel_mask must mark one upper left rectangle of each image, not so image {index}.")
    for size in dict.fromkeys(sizes):
        yield [index for index, other in enumerate(sizes) if other == size], size


def segment_by_size(
    segment: Callable[..., PatSegmentationOutput],
    pixel_values: torch.Tensor,
    pixel_mask: torch.Tensor,
    labels: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
) -> PatSegmentationOutput:
    """
    Segment images of equal size together, each group without padding, so that nothing leaks between images.

    Args:
        segment: From `pixel_values`, `labels` and `noise` of images of one size to their output.
        pixel_values: (batch, 3, H, W), images padded at right and bottom.
        pixel_mask: (batch, H, W), 1 where the image is.
        labels: (batch, H, W) int64, for the loss.
        noise: (batch,), see [`PatModel.forward`].

    Returns:
        Logits padded with zeros to the largest map, their `logits_sizes`, and with labels the mean of the losses.

    Raises:
        ValueError: If the mask marks no upper left rectangles.
    """
    outputs: dict[int, torch.Tensor] = {}
    losses: dict[str, torch.Tensor] = {}
    batch_size = len(pixel_values)
    for rows, (height, width) in group_by_size(pixel_mask, pixel_values):
        output = segment(
            pixel_values[rows, :, :height, :width],
            labels=None if labels is None else labels[rows, :height, :width],
            noise=None if noise is None else noise[rows],
        )
        assert output.logits is not None
        outputs.update(zip(rows, output.logits, strict=True))
        for name in LOSS_FIELDS:
            if name in output:
                losses[name] = losses.get(name, 0) + len(rows) / batch_size * output[name]
    maps = [outputs[row] for row in range(batch_size)]
    sizes = torch.tensor([tuple(one.shape[-2:]) for one in maps], device=pixel_values.device)
    height, width = sizes.amax(0).tolist()
    padded = [F.pad(one, (0, width - one.shape[-1], 0, height - one.shape[-2])) for one in maps]
    return PatSegmentationOutput(logits=torch.stack(padded), logits_sizes=sizes, **losses)


def check_one_size_when_distributed() -> None:
    """
    Refuse to train on mixed sizes in several processes, which would wait for each other in the codebooks' update.

    Raises:
        ValueError: If a process group is initialised.
    """
    if dist.is_available() and dist.is_initialized():
        raise ValueError("Train on images of one size when several processes train together: crop them.")
