"""Boxes, matching, phrase spans and the losses of visual grounding."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.boxes import cxcywh_to_xyxy, generalized_iou, iou, xywh_to_xyxy
from trainer.heads import GroundingHeads, GroundingOutput
from trainer.losses import (
    GroundingTargets,
    GroundingWeights,
    MatchCosts,
    grounding_losses,
    match,
    positive_map,
    total_over_levels,
)

NUM_QUERIES, NUM_POSITIONS, NUM_WORDS, WIDTH = 5, 6, 4, 3


def make_batch(
    boxes_per_image: list[int], seed: int = 0
) -> tuple[GroundingOutput, Tensor, GroundingTargets]:
    """Random predictions, words and targets."""
    generator = torch.Generator().manual_seed(seed)
    num_images, num_boxes = len(boxes_per_image), sum(boxes_per_image)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    output = GroundingOutput(
        4 * random(num_images, NUM_QUERIES, NUM_POSITIONS + 1),
        0.1 + 0.4 * random(num_images, NUM_QUERIES, 4),
        random(num_images, NUM_QUERIES, WIDTH) - 0.5,
    )
    image = torch.arange(num_images).repeat_interleave(torch.tensor(boxes_per_image))
    soft_tokens = random(num_boxes, NUM_POSITIONS + 1) < 0.4
    soft_tokens[:, -1] = False
    targets = GroundingTargets(
        0.1 + 0.4 * random(num_boxes, 4), image, soft_tokens, random(num_boxes, NUM_WORDS) < 0.5
    )
    return output, random(num_images, NUM_WORDS, WIDTH) - 0.5, targets


def test_overlap_of_boxes_by_hand() -> None:
    """Unit squares shifted by half, and far apart: GIoU also says how far."""
    square = torch.tensor([0.0, 0.0, 1.0, 1.0])
    others = torch.tensor([[0.5, 0.0, 1.5, 1.0], [3.0, 0.0, 4.0, 1.0], [0.0, 0.0, 1.0, 1.0]])

    torch.testing.assert_close(iou(square, others), torch.tensor([1 / 3, 0.0, 1.0]))
    torch.testing.assert_close(generalized_iou(square, others), torch.tensor([1 / 3, -0.5, 1.0]))


def test_box_forms_agree() -> None:
    corners = torch.tensor([1.0, 2.0, 4.0, 8.0])

    torch.testing.assert_close(cxcywh_to_xyxy(torch.tensor([2.5, 5.0, 3.0, 6.0])), corners)
    torch.testing.assert_close(xywh_to_xyxy(torch.tensor([1.0, 2.0, 3.0, 6.0])), corners)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.0, 1.0, width=32), min_size=8, max_size=8))
def test_generalized_iou_is_never_above_iou_and_never_nan(numbers: list[float]) -> None:
    """Two boxes of no size at one place would divide 0 by 0, and the matcher cannot take NaN."""
    first, second = (xywh_to_xyxy(torch.tensor(numbers[k : k + 4])) for k in (0, 4))
    first.requires_grad_()

    overlap, general = iou(first, second), generalized_iou(first, second)
    general.backward()

    assert -1 - 1e-6 <= float(general.detach()) <= float(overlap.detach()) + 1e-6 <= 1 + 2e-6
    assert bool(first.grad.isfinite().all())


@pytest.mark.parametrize(
    ("spans", "tokens"),
    [
        ([(0, 3)], [0]),
        ([(0, 8)], [0, 1, 2]),
        ([(3, 5)], [1]),  # starts on the space after "the": moves to "old"
        ([(4, 8)], [1, 2]),  # ends on the space after "dog's": moves back
        ([(7, 10)], [3]),  # starts on the first of two spaces
        ([(4, 9)], [1, 2]),  # ends on the second of two spaces
        ([(0, 2), (9, 11)], [0, 3]),
        ([(12, 14)], []),  # nothing but padding
        ([(9, 99)], []),  # past the end of the caption
        ([], []),
    ],
)
def test_a_phrase_marks_the_tokens_it_covers(
    spans: list[tuple[int, int]], tokens: list[int]
) -> None:
    """Tokens of characters: 0 0 0 _ 1 1 2 _ _ 3 3 3 and then none."""
    characters = [0, 0, 0, -1, 1, 1, 2, -1, -1, 3, 3, 3, -1, -1]

    marks = positive_map([spans], characters, 5)

    assert marks.shape == (1, 5)
    assert marks[0].nonzero().flatten().tolist() == tokens


def test_a_span_at_the_start_does_not_wrap_around_to_the_end() -> None:
    """Moving an end backwards past character 0 must not read the caption from behind."""
    assert not positive_map([[(0, 1)]], [-1, -1, 0, 1], 2)[0, 1]


def test_each_image_gets_the_assignment_of_least_cost() -> None:
    """Against all permutations; costs rebuilt from the definition one pair at a time."""
    output, _, targets = make_batch([3, 1])

    def cost(query: int, box: int) -> float:
        predicted, wanted = output.boxes[0, query], targets.boxes[box]
        probability = output.logits[0, query].softmax(dim=0)[targets.soft_tokens[box]].sum()
        overlap = generalized_iou(cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(wanted))
        return float(5 * (predicted - wanted).abs().sum() - probability - 2 * overlap)

    best = min(
        permutations(range(NUM_QUERIES), 3),
        key=lambda queries: sum(cost(query, box) for box, query in enumerate(queries)),
    )
    matches = match(output, targets)

    assert matches.images.tolist() == [0, 0, 0, 1]
    of_first = zip(matches.boxes.tolist()[:3], matches.queries.tolist()[:3], strict=True)
    assert dict(of_first) == dict(enumerate(best))
    assert matches.boxes.tolist()[3] == 3


def test_matching_follows_each_weight() -> None:
    """Query 0 has the right words, query 1 the right place: the weights decide."""
    logits = torch.zeros(1, 2, 3)
    logits[0, 0, 0] = 5.0
    boxes = torch.tensor([[[0.1, 0.1, 0.1, 0.1], [0.5, 0.5, 0.2, 0.2]]])
    output = GroundingOutput(logits, boxes, torch.zeros(1, 2, WIDTH))
    targets = GroundingTargets(
        boxes[0, 1:], torch.tensor([0]), torch.tensor([[True, False, False]]), torch.zeros(1, 1)
    )

    chosen = [
        int(match(output, targets, costs).queries)
        for costs in (MatchCosts(1, 0, 0), MatchCosts(0, 1, 0), MatchCosts(0, 0, 1))
    ]

    assert chosen == [0, 1, 1]


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(NUM_QUERIES)), st.integers(0, 3))
def test_losses_do_not_depend_on_the_order_of_queries(order: list[int], seed: int) -> None:
    """Queries are a set; what each is matched with must follow it."""
    output, words, targets = make_batch([2, 1], seed)
    mixed = GroundingOutput(
        output.logits[:, order], output.boxes[:, order], output.queries[:, order]
    )

    first = grounding_losses(output, words, targets)
    second = grounding_losses(mixed, words, targets)

    for name in ("soft_tokens", "l1", "giou", "alignment"):
        torch.testing.assert_close(getattr(first, name), getattr(second, name))


def test_a_batch_is_the_mean_of_its_images_weighted_by_boxes() -> None:
    """No image may see another's words or boxes; sums are divided by the boxes of the batch."""
    output, words, targets = make_batch([2, 1])
    together = grounding_losses(output, words, targets)

    parts = []
    for image, of_image in ((0, slice(0, 2)), (1, slice(2, 3))):
        only = slice(image, image + 1)
        parts.append(
            grounding_losses(
                GroundingOutput(output.logits[only], output.boxes[only], output.queries[only]),
                words[only],
                GroundingTargets(
                    targets.boxes[of_image],
                    targets.image_of_box[of_image] - image,
                    targets.soft_tokens[of_image],
                    targets.words[of_image],
                ),
                num_boxes=3,
            )
        )

    for name in ("soft_tokens", "l1", "giou", "alignment"):
        total = getattr(parts[0], name) + getattr(parts[1], name)
        torch.testing.assert_close(getattr(together, name), total)


def test_an_image_without_boxes_still_learns_that_there_is_no_object() -> None:
    """And gives finite losses: num_boxes is at least 1."""
    output, words, targets = make_batch([0, 0])
    output.logits.requires_grad_()

    losses = grounding_losses(output, words, targets)
    losses.total().backward()

    no_object = -0.1 * output.logits.log_softmax(dim=-1)[..., -1].sum()
    torch.testing.assert_close(losses.soft_tokens, no_object)
    assert float(losses.l1) == float(losses.giou) == float(losses.alignment) == 0
    assert bool(output.logits.grad.isfinite().all())


def test_a_phrase_of_two_tokens_asks_for_both_log_probabilities() -> None:
    """Targets are 0 or 1 as in the authors' code, not shares that sum to 1."""
    output, words, targets = make_batch([1])
    targets.soft_tokens[:] = torch.tensor([[True, True, False, False, False, False, False]])
    log_probabilities = output.logits[0].log_softmax(dim=-1)
    query = int(match(output, targets).queries)
    others = [k for k in range(NUM_QUERIES) if k != query]

    losses = grounding_losses(output, words, targets)

    expected = -log_probabilities[query, :2].sum() - 0.1 * log_probabilities[others, -1].sum()
    torch.testing.assert_close(losses.soft_tokens, expected)


def test_the_total_weighs_every_level() -> None:
    output, words, targets = make_batch([1, 1])
    level = grounding_losses(output, words, targets)

    total = total_over_levels([level, level], GroundingWeights(1, 2, 3, 4))

    once = level.soft_tokens + 2 * level.l1 + 3 * level.giou + 4 * level.alignment
    torch.testing.assert_close(total, 2 * once)
    recipe = level.soft_tokens + 5 * level.l1 + 2 * level.giou + level.alignment
    torch.testing.assert_close(level.total(), recipe)


def test_grounding_heads_have_the_released_size() -> None:
    """0.23 million with width 256 in the released code: with the side network the paper's 0.7."""
    heads = GroundingHeads(256)

    assert round(sum(p.numel() for p in heads.parameters()) / 1e6, 2) == 0.23
