"""Losses of retrieval, question answering and classification, beside the golden files."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.heads import AnswerHead, scale_to_unit
from trainer.losses import (
    row_cross_entropy,
    similarity_logits,
    smoothed_cross_entropy,
    soft_score_loss,
    soft_targets,
    symmetric_cross_entropy,
    triplet_loss,
    triplet_phase,
)

SCORES = torch.tensor([[0.5, 0.6, 0.1], [0.2, 0.9, 0.8], [0.1, 0.65, 0.7]])


@pytest.mark.parametrize("hardest", [False, True])
def test_the_triplet_loss_sums_violated_margins(hardest: bool) -> None:
    """By hand: with margin 0.2 each row and column has one violation at most."""
    rows, columns = [0.3, 0.1, 0.15], [0.0, 0.0, 0.3]

    loss = triplet_loss(SCORES, margin=0.2, hardest=hardest)

    torch.testing.assert_close(loss, torch.tensor(sum(rows) + sum(columns)))


def test_hardest_negatives_count_one_violation_for_each_row_and_column() -> None:
    """With margin 1 every negative violates; only the largest of each line may be summed."""
    rows = [1 + 0.6 - 0.5, 1 + 0.8 - 0.9, 1 + 0.65 - 0.7]
    columns = [1 + 0.2 - 0.5, 1 + 0.65 - 0.9, 1 + 0.8 - 0.7]

    loss = triplet_loss(SCORES, margin=1.0, hardest=True)

    torch.testing.assert_close(loss, torch.tensor(sum(rows) + sum(columns)))
    assert float(triplet_loss(SCORES, margin=1.0, hardest=False)) > float(loss)


def test_only_the_hardest_negative_gets_a_gradient() -> None:
    """The recipe's second phase trains on one negative for each image and text."""
    scores = SCORES.clone().requires_grad_()

    triplet_loss(scores, margin=1.0, hardest=True).backward()

    expected = [[-2.0, 1.0, 0.0], [1.0, -2.0, 2.0], [0.0, 2.0, -2.0]]
    torch.testing.assert_close(scores.grad, torch.tensor(expected))


def test_the_triplet_loss_warms_up_over_the_first_two_epochs() -> None:
    """All negatives first; then hardest ones with a factor that grows from 0 during one epoch."""
    phases = [triplet_phase(epoch, step, 4) for epoch in range(3) for step in (0, 3)]

    assert phases == [
        (False, 1.0),
        (False, 1.0),
        (True, 0.0),
        (True, 0.75),
        (True, 1.0),
        (True, 1.0),
    ]
    assert triplet_phase(0, 2, 4, warmup_epochs=0) == (True, 0.5)


def test_video_retrieval_compares_rows_with_their_diagonal() -> None:
    """Equal scores give log B; the symmetric loss is the mean of both directions."""
    scores = torch.randn(5, 5, generator=torch.Generator().manual_seed(0))

    torch.testing.assert_close(row_cross_entropy(torch.zeros(5, 5)), torch.tensor(math.log(5)))
    torch.testing.assert_close(symmetric_cross_entropy(scores), symmetric_cross_entropy(scores.T))
    both = [float(row_cross_entropy(scores)), float(row_cross_entropy(scores.T))]
    assert float(symmetric_cross_entropy(scores)) == pytest.approx(sum(both) / 2)
    assert both[0] != pytest.approx(both[1])


def test_the_similarity_scale_is_given_as_a_logarithm_and_may_be_trained() -> None:
    log_scale = torch.tensor(math.log(100.0), requires_grad=True)
    text = F.normalize(torch.eye(3)[:2] + 0.1, dim=-1)

    logits = similarity_logits(text, text, log_scale)
    logits.diagonal().sum().backward()

    torch.testing.assert_close(logits.diagonal(), torch.full((2,), 100.0))
    torch.testing.assert_close(log_scale.grad, torch.tensor(200.0))


def test_a_vector_of_length_zero_stays_zero_with_a_finite_gradient() -> None:
    """A dead embedding must not turn the whole batch into NaN."""
    vectors = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)

    units = scale_to_unit(vectors)
    units.sum().backward()

    torch.testing.assert_close(units, torch.tensor([[0.0, 0.0], [0.6, 0.8]]))
    assert bool(vectors.grad.isfinite().all())


def answer_batch() -> tuple[Tensor, Tensor]:
    """Three questions, four answers; the last question has no label."""
    answers = torch.tensor([[2, 0, -1], [3, -1, -1], [-1, -1, -1]])
    scores = torch.tensor([[0.9, 0.3, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    return answers, scores


def test_soft_targets_put_each_score_at_its_answer() -> None:
    """Padding (-1) must not land on the last answer, where a negative index would put it."""
    answers, scores = answer_batch()
    scores[2, 0] = 0.7  # a score beside padding counts for nothing

    targets = soft_targets(answers, scores, 4)

    expected = [[0.3, 0.0, 0.9, 0.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    torch.testing.assert_close(targets, torch.tensor(expected))


@pytest.mark.parametrize(
    ("loss_scale", "accumulation", "factor"), [(500.0, 8, 62.5), (500.0, 1, 500.0), (1, 8, 4.0)]
)
def test_the_soft_score_loss_is_a_scaled_mean(
    loss_scale: float, accumulation: int, factor: float
) -> None:
    """Scale 1 is the authors' other branch: a sum over answers, not divided by micro-batches."""
    targets = soft_targets(*answer_batch(), 4)

    loss = soft_score_loss(
        torch.zeros(3, 4), targets, loss_scale=loss_scale, accumulation=accumulation
    )

    torch.testing.assert_close(loss, torch.tensor(factor * math.log(2)))


def test_label_smoothing_gives_every_class_a_share() -> None:
    """By hand: 1 - s on the label and s spread over all classes; ignored labels leave the mean."""
    logits = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 3.0, 0.0]], [[1.0, 1.0, 5.0], [9.0, 0.0, 0.0]]])
    labels = torch.tensor([[0, 1], [2, -100]])
    log_probabilities = logits.log_softmax(dim=-1).reshape(4, 3)
    chosen = log_probabilities[[0, 1, 2], [0, 1, 2]]

    smooth = smoothed_cross_entropy(logits, labels, 0.3)

    expected = -(0.7 * chosen + 0.3 * log_probabilities[:3].mean(dim=1)).mean()
    torch.testing.assert_close(smooth, expected)
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels), -chosen.mean())


def test_the_answer_head_of_vqa_has_the_released_size() -> None:
    """5.99 million parameters with 3,129 answers in the released code."""
    head = AnswerHead(768, 3129)

    count = sum(p.numel() for p in head.logit_fc.parameters())
    assert count == 768 * 1536 + 1536 + 2 * 1536 + 1536 * 3129 + 3129
    assert round(count / 1e6, 2) == 5.99
    weight = head.logit_fc[3].weight.detach()
    assert float(weight.std()) == pytest.approx(0.02, rel=0.01)
    assert not head.logit_fc[3].bias.any()
