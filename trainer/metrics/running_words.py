"""Metrics of labelled words over many batches, as torchmetrics.

B texts, W words of the longest, C classes, m labelled words.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from .label_spans import are_span_labels, label_spans

UNLABELLED = -1


class WordScores(Metric):
    """Accuracy and F1 of words, and F1 of whole spans where labels mark spans.

    A word without a prediction (it was cut off) is wrong; in spans it stands for `O`.

    Args:
        classes: Names in the order of their numbers.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    confusion: Tensor
    spans: Tensor

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.has_spans = are_span_labels(classes)
        size = len(self.classes)
        # The last column counts words without a prediction.
        start = torch.zeros(size, size + 1, dtype=torch.int64)
        self.add_state("confusion", start, dist_reduce_fx="sum")
        # Right, predicted and true spans.
        self.add_state("spans", torch.zeros(3, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted_BW: Tensor, truth_BW: Tensor) -> None:
        """Add the texts of one batch: class numbers, -1 for no prediction and for no word."""
        is_word_BW = truth_BW != UNLABELLED
        size = len(self.classes)
        predicted = predicted_BW[is_word_BW]
        columns = predicted.where(predicted != UNLABELLED, size)
        cells = truth_BW[is_word_BW] * (size + 1) + columns
        counts = torch.bincount(cells, minlength=size * (size + 1))
        self.confusion += counts.view(size, size + 1)
        if self.has_spans:
            self._count_spans(predicted_BW.tolist(), truth_BW.tolist())

    def _count_spans(self, predicted: list[list[int]], truth: list[list[int]]) -> None:
        counts = [0, 0, 0]
        for found_W, true_W in zip(predicted, truth, strict=True):
            words = [at for at, place in enumerate(true_W) if place != UNLABELLED]
            found = label_spans([self._name(found_W[at]) for at in words])
            true = label_spans([self._name(true_W[at]) for at in words])
            counts[0] += len(found & true)
            counts[1] += len(found)
            counts[2] += len(true)
        self.spans += torch.tensor(counts, device=self.spans.device)

    def _name(self, place: int) -> str:
        return "O" if place == UNLABELLED else self.classes[place]

    def compute(self) -> dict[str, Tensor]:
        """`accuracy`, `macro_f1` (of classes that occur), and `span_f1`, `_precision`, `_recall`.

        A share of nothing is 0.
        """
        counts = self.confusion.double()
        right_C, true_C = counts.diagonal(), counts.sum(dim=1)
        found_C = counts[:, :-1].sum(dim=0)
        occurs_C = (true_C + found_C) > 0
        f1_C = 2 * right_C / (true_C + found_C).clamp(min=1)
        scores = {
            "accuracy": right_C.sum() / true_C.sum(),
            "macro_f1": f1_C[occurs_C].mean(),
        }
        if self.has_spans:
            right, found, true = self.spans.double()
            scores["span_precision"] = right / found.clamp(min=1)
            scores["span_recall"] = right / true.clamp(min=1)
            scores["span_f1"] = 2 * right / (found + true).clamp(min=1)
        return scores
