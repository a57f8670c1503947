"""CLIP's ResNet up to its last map, and the places of that map.

U images of one size, H height, W width, h and w of the map, C its width.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

STRIDE = 32
_EXPANSION = 4


class Bottleneck(nn.Module):
    """Three convolutions, all of stride 1: a block that shrinks averages instead."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * _EXPANSION, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * _EXPANSION)
        self.shrink = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.downsample: nn.Module | None = None
        if stride > 1 or width_in != width * _EXPANSION:
            # The released names count from -1, which is the averaging before the convolution.
            self.downsample = nn.Sequential(
                OrderedDict(
                    {
                        "-1": nn.AvgPool2d(stride),
                        "0": nn.Conv2d(width_in, width * _EXPANSION, 1, bias=False),
                        "1": nn.BatchNorm2d(width * _EXPANSION),
                    }
                )
            )

    def forward(self, x: Tensor) -> Tensor:
        """A map of the same size, or `stride` times smaller."""
        inner = self.bn1(self.conv1(x)).relu()
        inner = self.bn2(self.conv2(inner)).relu()
        inner = self.bn3(self.conv3(self.shrink(inner)))
        outer = x if self.downsample is None else self.downsample(x)
        result: Tensor = (inner + outer).relu()
        return result


def _stage(width_in: int, width: int, num_blocks: int, *, stride: int) -> nn.Sequential:
    rest = [Bottleneck(width * _EXPANSION, width, 1) for _ in range(num_blocks - 1)]
    return nn.Sequential(Bottleneck(width_in, width, stride), *rest)


class ModifiedResNet(nn.Module):
    """CLIP's ResNet: three convolutions at the start, averages where it shrinks, no pooling here.

    Source: arXiv 2103.00020, section 2.4.
    """

    def __init__(self, num_blocks: tuple[int, int, int, int], width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.shrink = nn.AvgPool2d(2)
        self.layer1 = _stage(width, width, num_blocks[0], stride=1)
        self.layer2 = _stage(width * 4, width * 2, num_blocks[1], stride=2)
        self.layer3 = _stage(width * 8, width * 4, num_blocks[2], stride=2)
        self.layer4 = _stage(width * 16, width * 8, num_blocks[3], stride=2)
        self.num_channels = width * 8 * _EXPANSION

    def forward(self, images_U3HW: Tensor) -> Tensor:
        """(U, C, h, w), 32 times smaller."""
        x = self.bn1(self.conv1(images_U3HW)).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = self.shrink(self.bn3(self.conv3(x)).relu())
        result: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return result


class GridPositions(nn.Module):
    """A learned vector for every row and every column of a map."""

    def __init__(self, num_positions: int, width: int) -> None:
        super().__init__()
        # The released names call rows x and columns y.
        self.x_position_embedding = nn.Embedding(num_positions, width)
        self.y_position_embedding = nn.Embedding(num_positions, width)

    def forward(self, map_UChw: Tensor) -> Tensor:
        """The map as (U, h * w, C) rows with their places added."""
        height, width = map_UChw.shape[2:]
        rows = self.x_position_embedding(torch.arange(height, device=map_UChw.device))
        columns = self.y_position_embedding(torch.arange(width, device=map_UChw.device))
        places = (rows[:, None] + columns[None]).flatten(0, 1)
        result: Tensor = map_UChw.flatten(2).transpose(1, 2) + places
        return result
