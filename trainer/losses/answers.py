"""Losses over classes: soft answer scores, and labels with smoothing.

Q questions, K labelled answers of a question, A answers, C classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def soft_targets(answers_QK: Tensor, scores_QK: Tensor, num_answers: int) -> Tensor:
    """Spread each question's labelled answers over all answers: (Q, A), 0 where unlabelled.

    Args:
        answers_QK: Answer numbers, -1 where a question has fewer than K labels.
        scores_QK: Their soft scores, in [0, 1].
        num_answers: A.
    """
    shape = (len(answers_QK), num_answers + 1)
    # Column A collects the padding and is cut off again.
    columns_QK = answers_QK.where(answers_QK >= 0, num_answers)
    return scores_QK.new_zeros(shape).scatter_(1, columns_QK, scores_QK)[:, :num_answers]


def soft_score_loss(
    logits_QA: Tensor, targets_QA: Tensor, *, loss_scale: float = 500.0, accumulation: int = 1
) -> Tensor:
    """Binary cross-entropy of every question and answer, averaged, then scaled up.

    Args:
        logits_QA: Answer scores before the sigmoid.
        targets_QA: Soft scores.
        loss_scale: The mean is multiplied by this; 1 means by A, a sum over answers.
        accumulation: Micro-batches of one step; a scale other than 1 is divided by it.

    Source: CLIP-ViL as UniPT runs it: scale 500, 8 micro-batches.
    """
    mean = F.binary_cross_entropy_with_logits(logits_QA, targets_QA)
    return mean * (logits_QA.shape[1] if loss_scale == 1 else loss_scale / accumulation)


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy against labels that give a share of their weight to all classes.

    Args:
        logits: (..., C).
        labels: (...) class numbers; -100 is left out.
        smoothing: Share in [0, 1) spread evenly over all C classes, the label's included.
    """
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), label_smoothing=smoothing)
