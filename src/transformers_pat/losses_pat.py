"""The parts of PAT's training loss, each a scalar."""

import torch
import torch.nn.functional as F

from .clip_features_pat import ClipFeatures


def reconstruction_loss(reconstruction: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
    """Mean squared error of the pixels, both (batch, 3, H, W)."""
    return F.mse_loss(reconstruction.float(), pixel_values.float())


def feature_loss(patch_embeds: torch.Tensor, image_embeds: torch.Tensor, features: ClipFeatures) -> torch.Tensor:
    """
    Distance of decoded embeddings to CLIP's own, 0 to 4: 1 - cosine of the patches plus that of the image.

    Args:
        patch_embeds: Decoded patch embeddings, (batch, height, width, projection_dim).
        image_embeds: Decoded image embedding, (batch, projection_dim).
        features: CLIP's, with `image_embeds`.
    """
    assert features.image_embeds is not None
    patch_similarity = F.cosine_similarity(patch_embeds.float(), features.dense_embeds.detach().float(), dim=-1)
    image_similarity = F.cosine_similarity(image_embeds.float(), features.image_embeds.float(), dim=-1)
    return (1 - patch_similarity).mean() + (1 - image_similarity).mean()


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """
    Cross-entropy over the vocabulary at twice the logits' resolution, which bounds memory for many labels.

    The mean is taken per image first, so that the loss of a batch is the mean of its images' losses. Within an image
    a class is weighted by the square root of its pixels: mean IoU counts classes, not pixels (our choice).

    Args:
        logits: (batch, num_labels, h, w), each map covering its image.
        labels: (batch, H, W) int64.
        ignore_index: Label of the pixels that do not count.
    """
    size = [min(2 * side, full) for side, full in zip(logits.shape[-2:], labels.shape[-2:], strict=True)]
    logits = F.interpolate(logits.float(), size=size, mode="bilinear", align_corners=False)
    labels = F.interpolate(labels[:, None].float(), size=size, mode="nearest-exact")[:, 0].long()
    losses = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none").flatten(1)
    valid = (labels != ignore_index).flatten(1)
    classes = labels.flatten(1).where(valid, 0)
    pixels = losses.new_zeros(logits.shape[:2]).scatter_add_(1, classes, valid.to(losses.dtype))
    weights = valid * pixels.gather(1, classes).clamp(min=1).rsqrt()
    return ((weights * losses).sum(1) / weights.sum(1).clamp(min=1)).mean()


def residual_loss(residual: torch.Tensor, bound: float, labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """
    Squared norm of the embedding residual where nothing is labelled, as a share of its bound's, 0 to 1 (our choice).

    What is not labelled may be of any word: there CLIP's own embedding should stay as it is. The mean is taken per
    image first, as in [`segmentation_loss`].

    Args:
        residual: (batch, rows, columns, projection_dim), covering the image.
        bound: Largest norm of a residual.
        labels: (batch, H, W) int64.
        ignore_index: Label of the pixels that are not labelled.
    """
    labels = F.interpolate(labels[:, None].float(), size=residual.shape[1:3], mode="nearest-exact")[:, 0].long()
    unlabelled = (labels == ignore_index).flatten(1)
    shares = residual.float().square().sum(-1).flatten(1) / bound**2
    return ((unlabelled * shares).sum(1) / unlabelled.sum(1).clamp(min=1)).mean()


def check_label_maps(labels: torch.Tensor, pixel_values: torch.Tensor, num_labels: int, ignore_index: int) -> None:
    """
    Check label maps against the images and the vocabulary.

    Raises:
        ValueError: If the shape differs from that of `pixel_values`, (batch, H, W), or an id is neither one of the
            `num_labels` labels nor `ignore_index`.
    """
    expected = (len(pixel_values), *pixel_values.shape[-2:])
    if tuple(labels.shape) != expected:
        raise ValueError(f"labels must be {expected} like pixel_values, got {tuple(labels.shape)}.")
    if 0 <= ignore_index < num_labels:
        raise ValueError(
            f"semantic_loss_ignore_index={ignore_index} is also one of the {num_labels} classes; "
            "set config.semantic_loss_ignore_index to 65535 and use it in the label maps."
        )
    found = labels[labels != ignore_index]
    if found.numel() and not 0 <= int(found.min()) <= int(found.max()) < num_labels:
        raise ValueError(
            f"labels hold ids from {int(found.min())} to {int(found.max())}, but there are {num_labels} labels "
            f"(0..{num_labels - 1}) and {ignore_index} to ignore."
        )
