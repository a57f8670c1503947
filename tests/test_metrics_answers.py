"""Accuracy of question answering with partly right answers."""

from __future__ import annotations

import pytest
import torch

from trainer.metrics import soft_accuracy
from trainer.metrics.running import SoftAccuracy

LOGITS = torch.tensor([[0.1, 3.0, 0.2], [2.0, 1.0, 0.0], [0.0, 0.0, 9.0], [5.0, 0.0, 0.0]])
TARGETS = torch.tensor([[1.0, 0.3, 0.0], [0.6, 0.9, 0.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def test_an_answer_counts_by_its_soft_score() -> None:
    """0.3 and 0.6 for the chosen answers; no label, and a wrong answer, count 0."""
    assert float(soft_accuracy(LOGITS, TARGETS)) == pytest.approx(0.9 / 4)


def test_batches_count_by_their_questions() -> None:
    """A short last batch must not weigh as much as a full one."""
    metric = SoftAccuracy()
    metric.update(LOGITS[:3], TARGETS[:3])
    metric.update(LOGITS[3:], TARGETS[3:])

    assert float(metric.compute()) == pytest.approx(0.9 / 4)
    metric.reset()
    metric.update(LOGITS[:1], TARGETS[:1])
    assert float(metric.compute()) == pytest.approx(0.3)
