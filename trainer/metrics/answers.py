"""Accuracy of visual question answering, where an answer can be partly right.

Q questions, A answers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


def soft_accuracy(logits_QA: Tensor, targets_QA: Tensor) -> Tensor:
    """Mean soft score of the chosen answers, in [0, 1].

    VQA v2's accuracy with its soft scores; GQA's where the one right answer has score 1. A
    question without labelled answers counts as wrong.
    """
    return scores_of_choices(logits_QA, targets_QA).mean()


def scores_of_choices(logits_QA: Tensor, targets_QA: Tensor) -> Tensor:
    """The soft score of each question's highest logit: (Q,)."""
    return targets_QA.gather(1, logits_QA.argmax(dim=1, keepdim=True)).squeeze(1)


class SoftAccuracy(Metric):
    """`soft_accuracy` over many batches."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits_QA: Tensor, targets_QA: Tensor) -> None:
        """Add the questions of one batch."""
        self.total += scores_of_choices(logits_QA, targets_QA).sum(dtype=torch.float64)
        self.count += len(logits_QA)

    def compute(self) -> Tensor:
        """Mean soft score of all questions, in [0, 1]."""
        return self.total / self.count
