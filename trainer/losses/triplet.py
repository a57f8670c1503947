"""The hinge loss of image-text retrieval, and how it changes over the first epochs.

B pairs of image and text.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def triplet_loss(scores_BB: Tensor, *, margin: float = 0.2, hardest: bool = True) -> Tensor:
    """Ask each pair to beat every other pairing of its image, and of its text, by a margin.

    Args:
        scores_BB: Similarity of image i (row) and text j (column); pairs on the diagonal.
        margin: 0.2 in the authors' recipe.
        hardest: Count only the worst violation of each image and of each text, not all of them.

    Returns:
        The sum over the batch, not the mean.
    """
    pairs_B = scores_BB.diagonal()
    is_pair = torch.eye(len(scores_BB), dtype=torch.bool, device=scores_BB.device)
    text_costs = (margin + scores_BB - pairs_B[:, None]).clamp(min=0).masked_fill(is_pair, 0)
    image_costs = (margin + scores_BB - pairs_B[None, :]).clamp(min=0).masked_fill(is_pair, 0)
    if hardest:
        return text_costs.max(dim=1).values.sum() + image_costs.max(dim=0).values.sum()
    return text_costs.sum() + image_costs.sum()


class TripletPhase(NamedTuple):
    """How the triplet loss is used at one step.

    Attributes:
        hardest: Whether only the hardest negatives count.
        factor: What the loss is multiplied by.
    """

    hardest: bool
    factor: float


def triplet_phase(
    epoch: int, step: int, steps_per_epoch: int, warmup_epochs: int = 1
) -> TripletPhase:
    """All negatives during warm-up, hardest ones after; the first epoch with them grows from 0.

    Args:
        epoch: From 0.
        step: Within the epoch, from 0.
        steps_per_epoch: Steps of one epoch.
        warmup_epochs: Epochs with all negatives.

    Source: UniPT's recipe for VSE-infinity. The very first step with hardest negatives has factor
    0, as released.
    """
    factor = step / steps_per_epoch if epoch == warmup_epochs else 1.0
    return TripletPhase(hardest=epoch >= warmup_epochs, factor=factor)
