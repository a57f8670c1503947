"""How often a referring expression finds its box."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.boxes import generalized_iou, iou
from trainer.heads import GroundingOutput
from trainer.metrics import hits, order_by_score, predicted_boxes
from trainer.metrics.running import GroundingPrecision

TRUTH = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
# Overlaps with the truth: 1; IoU 0.53 but GIoU below 0.5; none.
EXACT, DIAGONAL, ELSEWHERE = (
    [0.0, 0.0, 10.0, 10.0],
    [1.7, 1.7, 11.7, 11.7],
    [50.0, 50.0, 60.0, 60.0],
)


def test_boxes_come_in_pixels_with_the_chance_of_an_object() -> None:
    """Sizes are (height, width), boxes x before y: mixing them up shows on a wide image."""
    logits = torch.log(torch.tensor([[[0.2, 0.7, 0.1], [0.1, 0.1, 0.8]]]))
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.5, 1.0]]])
    output = GroundingOutput(logits, boxes, boxes)

    scores, corners = predicted_boxes(output, torch.tensor([[100, 200]]))

    torch.testing.assert_close(scores, torch.tensor([[0.9, 0.2]]))
    expected = [[[80.0, 30.0, 120.0, 70.0], [0.0, 0.0, 100.0, 100.0]]]
    torch.testing.assert_close(corners, torch.tensor(expected))


def test_the_highest_scores_are_looked_at_first() -> None:
    boxes = torch.tensor([[ELSEWHERE, EXACT, DIAGONAL]])

    found = hits(torch.tensor([[0.5, 0.4, 0.1]]), boxes, TRUTH, counts=(1, 2, 5))

    assert found.tolist() == [[False, True, True]]


def test_the_authors_overlap_is_stricter_than_plain_iou() -> None:
    """They threshold generalised IoU; the benchmark's text says IoU."""
    boxes = torch.tensor([[DIAGONAL]])
    assert float(iou(boxes[0], TRUTH)) > 0.5 > float(generalized_iou(boxes[0], TRUTH))

    assert not hits(torch.ones(1, 1), boxes, TRUTH).any()
    assert hits(torch.ones(1, 1), boxes, TRUTH, overlap=iou).all()
    assert hits(torch.ones(1, 1), boxes, TRUTH, threshold=0.4).all()


def test_an_overlap_equal_to_the_threshold_fits() -> None:
    half = torch.tensor([[[0.0, 0.0, 5.0, 10.0]]])

    assert hits(torch.ones(1, 1), half, TRUTH, overlap=iou).all()


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(6)))
def test_equal_scores_give_one_order_whatever_the_query_order(order: list[int]) -> None:
    """Ties are broken by the box itself, so the metric is a function of a set."""
    boxes = torch.rand(1, 6, 4, generator=torch.Generator().manual_seed(0))
    scores = torch.tensor([[0.5, 0.5, 0.9, 0.5, 0.1, 0.1]])

    found = order_by_score(scores[:, order], boxes[:, order])

    assert torch.equal(found, order_by_score(scores, boxes))
    assert torch.equal(found[0, 0], boxes[0, 2])


def test_precision_counts_expressions_over_batches() -> None:
    """One of three expressions is found first, two among five."""
    metric = GroundingPrecision(counts=(1, 5))
    scores = torch.tensor([[0.9, 0.1]])

    metric.update(scores, torch.tensor([[EXACT, ELSEWHERE]]), TRUTH)
    metric.update(
        scores.repeat(2, 1),
        torch.tensor([[ELSEWHERE, EXACT], [ELSEWHERE, DIAGONAL]]),
        TRUTH.repeat(2, 1),
    )

    assert metric.compute().tolist() == pytest.approx([1 / 3, 2 / 3])
