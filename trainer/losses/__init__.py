"""Losses of the paper's systems, as functions of tensors."""

from .answers import smoothed_cross_entropy, soft_score_loss, soft_targets
from .contrastive import row_cross_entropy, similarity_logits, symmetric_cross_entropy
from .grounding import (
    GroundingLosses,
    GroundingWeights,
    alignment_loss,
    grounding_losses,
    soft_token_loss,
    total_over_levels,
)
from .matching import GroundingTargets, MatchCosts, Matches, match
from .spans import positive_map
from .triplet import TripletPhase, triplet_loss, triplet_phase

__all__ = [
    "GroundingLosses",
    "GroundingTargets",
    "GroundingWeights",
    "MatchCosts",
    "Matches",
    "TripletPhase",
    "alignment_loss",
    "grounding_losses",
    "match",
    "positive_map",
    "row_cross_entropy",
    "similarity_logits",
    "smoothed_cross_entropy",
    "soft_score_loss",
    "soft_targets",
    "soft_token_loss",
    "symmetric_cross_entropy",
    "total_over_levels",
    "triplet_loss",
    "triplet_phase",
]
