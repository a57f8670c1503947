"""The losses of visual grounding: boxes, soft tokens and contrastive alignment.

B images, Q queries, T text tokens, C text positions, M matched queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..boxes import cxcywh_to_xyxy, generalized_iou
from ..heads import GroundingOutput
from .matching import GroundingTargets, MatchCosts, Matches, match

TEMPERATURE = 0.07
"""Divides the cosines of queries and words, as in MDETR."""
NO_OBJECT_WEIGHT = 0.1
"""Weight of queries without a box in the soft-token loss, as in MDETR."""
COUNT_EPS = 1e-6
"""Added to the number of positives that a sum is divided by, as in MDETR."""


@dataclass(frozen=True)
class GroundingWeights:
    """What each loss is multiplied by in the total; the authors' recipe by default."""

    soft_tokens: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    alignment: float = 1.0


@dataclass(frozen=True, eq=False)
class GroundingLosses:
    """The scalar losses of one decoder level.

    Attributes:
        soft_tokens: Cross-entropy over text positions.
        l1: Absolute differences of box numbers.
        giou: 1 - generalised IoU.
        alignment: Queries against words, both ways.
        cardinality_error: Predicted minus true number of boxes, absolute mean; for reports only.
        matches: Which query stands for which box.
    """

    soft_tokens: Tensor
    l1: Tensor
    giou: Tensor
    alignment: Tensor
    cardinality_error: Tensor
    matches: Matches

    def total(self, weights: GroundingWeights | None = None) -> Tensor:
        """The weighted sum that is trained."""
        weights = weights or GroundingWeights()
        return (
            weights.soft_tokens * self.soft_tokens
            + weights.l1 * self.l1
            + weights.giou * self.giou
            + weights.alignment * self.alignment
        )


def grounding_losses(
    output: GroundingOutput,
    words_BTH: Tensor,
    targets: GroundingTargets,
    *,
    is_word_BT: Tensor | None = None,
    num_boxes: float | None = None,
    costs: MatchCosts | None = None,
) -> GroundingLosses:
    """Match queries to boxes and compare them, at one decoder level.

    Args:
        output: Predictions of the level.
        words_BTH: Text tokens in the contrastive space, length 1.
        targets: Boxes and their words.
        is_word_BT: True for real tokens; None: all columns take part, as in the release.
        num_boxes: What sums are divided by, if not the boxes of this batch (at least 1): the
            mean over processes when several train together.
        costs: Weights of the matching cost.
    """
    matches = match(output, targets, costs)
    if num_boxes is None:
        num_boxes = max(len(targets.boxes), 1)
    predicted = output.boxes[matches.images, matches.queries]
    wanted = targets.boxes[matches.boxes]
    overlaps = generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
    return GroundingLosses(
        soft_tokens=soft_token_loss(output.logits, targets, matches) / num_boxes,
        l1=F.l1_loss(predicted, wanted, reduction="sum") / num_boxes,
        giou=(1 - overlaps).sum() / num_boxes,
        alignment=alignment_loss(output.queries, words_BTH, targets, matches, is_word_BT)
        / num_boxes,
        cardinality_error=_cardinality_error(output.logits, targets),
        matches=matches,
    )


def total_over_levels(
    levels: Sequence[GroundingLosses], weights: GroundingWeights | None = None
) -> Tensor:
    """The loss that is trained: every decoder level counts the same, the last one included."""
    return torch.stack([level.total(weights) for level in levels]).sum()


def soft_token_loss(logits_BQC: Tensor, targets: GroundingTargets, matches: Matches) -> Tensor:
    """Sum over queries of the cross-entropy against text positions, or against "no object".

    Targets are 0 or 1, not shares: a phrase of k tokens asks for k log-probabilities, because the
    authors' code makes the map boolean before the loss sees it.
    """
    log_probabilities = logits_BQC.log_softmax(dim=-1)
    losses_BQ = -NO_OBJECT_WEIGHT * log_probabilities[..., -1]
    at = (matches.images, matches.queries)
    described = targets.soft_tokens[matches.boxes].to(log_probabilities.dtype)
    matched_M = -(log_probabilities[at] * described).sum(dim=-1)
    return losses_BQ.index_put(at, matched_M).sum()


def alignment_loss(
    queries_BQH: Tensor,
    words_BTH: Tensor,
    targets: GroundingTargets,
    matches: Matches,
    is_word_BT: Tensor | None = None,
) -> Tensor:
    """Sum over images of the contrastive loss between matched queries and their words.

    Without `is_word_BT` the softmax runs over all T token columns, padding included, as in the
    release, where padded tokens have states too; a cache holds none of them.
    """
    logits_BQT = torch.einsum("bqh,bth->bqt", queries_BQH, words_BTH) / TEMPERATURE
    is_pair_BQT = torch.zeros_like(logits_BQT, dtype=torch.bool)
    is_pair_BQT[matches.images, matches.queries] = targets.words[matches.boxes]
    of_words_BQT = logits_BQT
    if is_word_BT is not None:
        of_words_BQT = logits_BQT.masked_fill(~is_word_BT[:, None], -torch.inf)
    to_words = _negative_log_likelihood(of_words_BQT, is_pair_BQT)
    to_queries = _negative_log_likelihood(logits_BQT.mT, is_pair_BQT.mT)
    return (to_words + to_queries) / 2


def _negative_log_likelihood(logits: Tensor, is_pair: Tensor) -> Tensor:
    """Rows with pairs: log-sum-exp of the row minus the mean logit of its pairs; summed."""
    num_pairs = is_pair.sum(dim=-1)
    means = logits.masked_fill(~is_pair, 0).sum(dim=-1) / (num_pairs + COUNT_EPS)
    losses = logits.logsumexp(dim=-1) - means
    return losses.masked_fill(num_pairs == 0, 0).sum()


@torch.no_grad()
def _cardinality_error(logits_BQC: Tensor, targets: GroundingTargets) -> Tensor:
    found_B = (logits_BQC.argmax(dim=-1) != logits_BQC.shape[-1] - 1).sum(dim=1)
    true_B = torch.bincount(targets.image_of_box, minlength=len(logits_BQC))
    return (found_B - true_B).abs().to(logits_BQC.dtype).mean()
