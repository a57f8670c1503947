"""Boxes: changes of form and overlap. The last axis holds the four numbers; the rest broadcasts.

`cxcywh` centre and size, `xywh` corner and size, `xyxy` two corners, x and y growing right and
down, in any one unit.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_AREA = 1e-9
"""Floor of the areas that overlaps are divided by: two boxes of no size overlap by 0, not NaN."""


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Corners from centre and size."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Corners from the upper left corner and size."""
    corner, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([corner, corner + size], dim=-1)


def iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """Intersection over union, in [0, 1]."""
    intersection, union = _intersection_and_union(first_xyxy, second_xyxy)
    return intersection / union


def generalized_iou(first_xyxy: Tensor, second_xyxy: Tensor) -> Tensor:
    """IoU minus the share of the enclosing box that neither covers, in [-1, 1]."""
    intersection, union = _intersection_and_union(first_xyxy, second_xyxy)
    upper_left = torch.minimum(first_xyxy[..., :2], second_xyxy[..., :2])
    lower_right = torch.maximum(first_xyxy[..., 2:], second_xyxy[..., 2:])
    hull = (lower_right - upper_left).clamp(min=0).prod(dim=-1).clamp(min=SMALLEST_AREA)
    return intersection / union - (hull - union) / hull


def _intersection_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    upper_left = torch.maximum(first[..., :2], second[..., :2])
    lower_right = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (lower_right - upper_left).clamp(min=0).prod(dim=-1)
    union = _area(first) + _area(second) - intersection
    return intersection, union.clamp(min=SMALLEST_AREA)


def _area(xyxy: Tensor) -> Tensor:
    return (xyxy[..., 2:] - xyxy[..., :2]).prod(dim=-1)
