"""MDETR's convolutional network and the positions of its map.

B images of one size, H height, W width, h and w of the map, C its width, D of the transformer.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UnsupportedBackboneError

STRIDE = 32
_TEMPERATURE = 10000.0
_TIMM = "timm_"


class ImageNetwork(nn.Module):
    """A network up to its last map, which is 32 times smaller than the image."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        super().__init__()
        is_timm = name.startswith(_TIMM)
        self.body, self.num_channels = _timm(name, options) if is_timm else _resnet(name)

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """(B, C, h, w)."""
        maps = self.body(images_B3HW)
        last: Tensor = maps[-1] if isinstance(maps, list) else maps
        return last


def _resnet(name: str) -> tuple[nn.Module, int]:
    from torchvision import models, ops  # type: ignore[import-untyped]

    if name not in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"):
        raise UnsupportedBackboneError(
            f"MDETR: its image network is {name!r}, needed a ResNet of torchvision (resnet101) or "
            "timm_NAME. Correct `backbone` in its config.json."
        )
    network = getattr(models, name)(weights=None, norm_layer=ops.FrozenBatchNorm2d)
    children = [child for child in network.named_children() if child[0] not in ("avgpool", "fc")]
    return nn.Sequential(OrderedDict(children)), int(network.fc.in_features)


def _timm(name: str, options: Mapping[str, Any]) -> tuple[nn.Module, int]:
    import timm

    network: Any = timm.create_model(
        name.removeprefix(_TIMM), features_only=True, out_indices=(1, 2, 3, 4), **options
    )
    return network, int(network.feature_info.channels()[-1])


def map_size(height: int, width: int) -> tuple[int, int]:
    """(h, w) of the map of an image: every halving rounds up."""
    return math.ceil(height / STRIDE), math.ceil(width / STRIDE)


def sine_positions(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Where each place of a map is: (h * w, D) float32, rows first in the first half of D.

    Source: DETR's normalised sine encoding, of a map without padding.
    """
    half = dim // 2
    step = torch.arange(half, device=device, dtype=torch.float32).div(2, rounding_mode="floor")
    frequencies = _TEMPERATURE ** (2 * step / half)
    encoded = []
    for length in (height, width):
        place = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        angle = place[:, None] / (length + 1e-6) * (2 * math.pi) / frequencies
        # Even numbers of a position are sines, odd ones cosines.
        encoded.append(torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], 2).flatten(1))
    rows, columns = encoded
    grid = torch.cat(
        [
            rows[:, None].expand(height, width, half),
            columns[None].expand(height, width, half),
        ],
        dim=2,
    )
    return grid.reshape(height * width, dim)
