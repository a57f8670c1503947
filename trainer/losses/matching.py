"""Assigns each target box of an image to the query that fits it best.

B images, Q queries, K target boxes of the whole batch, C text positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ..boxes import cxcywh_to_xyxy, generalized_iou
from ..heads import GroundingOutput


@dataclass(frozen=True, eq=False)
class GroundingTargets:
    """What the queries of a batch should find.

    Attributes:
        boxes: (K, 4) centre and size in [0, 1], images one after the other.
        image_of_box: (K,) int64, ascending: which image each box belongs to.
        soft_tokens: (K, C + 1) bool, the text positions that describe each box.
        words: (K, T) bool, the same over the tokens of the contrastive projection.
    """

    boxes: Tensor
    image_of_box: Tensor
    soft_tokens: Tensor
    words: Tensor


@dataclass(frozen=True, eq=False)
class Matches:
    """One entry for each matched query, by image and then by query.

    Attributes:
        images: (M,) int64.
        queries: (M,) int64, within the image.
        boxes: (M,) int64, within all target boxes of the batch.
    """

    images: Tensor
    queries: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class MatchCosts:
    """Weights of the three parts of the matching cost.

    Attributes:
        soft_tokens: Of minus the probability of the box's text positions.
        l1: Of the sum of absolute differences of the four box numbers.
        giou: Of minus the generalised IoU.
    """

    soft_tokens: float = 1.0
    l1: float = 5.0
    giou: float = 2.0


@torch.no_grad()
def match(
    output: GroundingOutput, targets: GroundingTargets, costs: MatchCosts | None = None
) -> Matches:
    """The assignment of least total cost in each image, by the Hungarian algorithm."""
    costs_KQ = matching_costs(output, targets, costs or MatchCosts()).cpu().numpy()
    counts_B = torch.bincount(targets.image_of_box.cpu(), minlength=len(output.boxes)).numpy()
    images, queries, boxes = [], [], []
    for image, stop in enumerate(np.cumsum(counts_B)):
        start = stop - counts_B[image]
        chosen, rows = linear_sum_assignment(costs_KQ[start:stop].T)
        images.append(np.full(len(chosen), image))
        queries.append(chosen)
        boxes.append(start + rows)
    device = output.boxes.device
    return Matches(
        *(torch.from_numpy(np.concatenate(part)).to(device) for part in (images, queries, boxes))
    )


def matching_costs(output: GroundingOutput, targets: GroundingTargets, costs: MatchCosts) -> Tensor:
    """What it costs to give each target box to each query of its own image: (K, Q)."""
    image_K = targets.image_of_box
    boxes_KQ4 = output.boxes[image_K]
    targets_K14 = targets.boxes[:, None]
    l1_KQ = (boxes_KQ4 - targets_K14).abs().sum(dim=-1)
    giou_KQ = generalized_iou(cxcywh_to_xyxy(boxes_KQ4), cxcywh_to_xyxy(targets_K14))
    probabilities_BQC = output.logits.softmax(dim=-1)
    tokens_KQ = torch.einsum(
        "kqc,kc->kq", probabilities_BQC[image_K], targets.soft_tokens.to(probabilities_BQC.dtype)
    )
    return costs.l1 * l1_KQ - costs.soft_tokens * tokens_KQ - costs.giou * giou_KQ
