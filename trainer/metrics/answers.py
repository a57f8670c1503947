"""Accuracy of visual question answering, where an answer can be partly right.

Q questions, A answers.
"""

from __future__ import annotations

from torch import Tensor


def soft_accuracy(logits_QA: Tensor, targets_QA: Tensor) -> Tensor:
    """Mean soft score of the chosen answers, in [0, 1].

    VQA v2's accuracy with its soft scores; GQA's where the one right answer has score 1. A
    question without labelled answers counts as wrong.
    """
    return scores_of_choices(logits_QA, targets_QA).mean()


def scores_of_choices(logits_QA: Tensor, targets_QA: Tensor) -> Tensor:
    """The soft score of each question's highest logit: (Q,)."""
    return targets_QA.gather(1, logits_QA.argmax(dim=1, keepdim=True)).squeeze(1)
