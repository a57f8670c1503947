"""Metrics of the paper's systems, as functions of tensors; over many batches in `running`."""

from .answers import scores_of_choices, soft_accuracy
from .grounding import Overlap, best_first, hits, order_by_score, predicted_boxes
from .label_spans import are_span_labels, label_spans
from .ranks import Ranks, Ties, best_of_groups, rank_embeddings, rank_merged, rank_scores
from .recall import (
    Median,
    Protocol,
    RecallSummary,
    TwoWayRecall,
    mean_of_folds,
    recall_by,
    recall_of_folds,
    summarize_places,
    two_way_recall,
)

__all__ = [
    "Median",
    "Overlap",
    "Protocol",
    "Ranks",
    "RecallSummary",
    "Ties",
    "TwoWayRecall",
    "are_span_labels",
    "best_first",
    "best_of_groups",
    "hits",
    "label_spans",
    "mean_of_folds",
    "order_by_score",
    "predicted_boxes",
    "rank_embeddings",
    "rank_merged",
    "rank_scores",
    "recall_by",
    "recall_of_folds",
    "scores_of_choices",
    "soft_accuracy",
    "summarize_places",
    "two_way_recall",
]
