"""Retrieval metrics: ranks computed in blocks, ties, several texts for each item, folds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.metrics import (
    RecallSummary,
    best_of_groups,
    mean_of_folds,
    rank_embeddings,
    rank_merged,
    rank_scores,
    recall_of_folds,
    summarize_places,
    two_way_recall,
)
from trainer.metrics.running import RetrievalRecall


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal float32 numbers."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=5, max_size=24), st.integers(0, 9), st.integers(1, 400))
def test_ranks_are_those_of_a_sort_for_any_block_size(
    extra: list[int], seed: int, block_bytes: int
) -> None:
    """Against sorting each row of the full matrix; texts of an item in any order and number."""
    item_of_text = torch.tensor([*range(5), *extra])
    items, texts = random(5, 3, seed=seed), random(len(item_of_text), 3, seed=seed + 1)
    item = torch.arange(5)

    text_ranks = rank_embeddings(items, texts, item, item_of_text, block_bytes=block_bytes)
    item_ranks = rank_embeddings(texts, items, item_of_text, item, block_bytes=block_bytes)

    scores = items.double().numpy() @ texts.double().numpy().T
    owners = item_of_text.numpy()[np.argsort(-scores, axis=1)]
    best = [int(np.flatnonzero(row == i)[0]) for i, row in enumerate(owners)]
    assert text_ranks.ahead.tolist() == best
    order = np.argsort(-scores, axis=0)
    own = [int(np.flatnonzero(order[:, t] == i)[0]) for t, i in enumerate(item_of_text.tolist())]
    assert item_ranks.ahead.tolist() == own
    assert int(text_ranks.tied.sum()) == int(item_ranks.tied.sum()) == 0


TIED = torch.tensor([[3.0, 3.0, 1.0, 3.0], [5.0, 4.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0]])


def test_both_forms_of_ties_are_what_they_say() -> None:
    """Row 0: first, tied with two. Row 1: one ahead, tied with one. Row 2: all tied."""
    groups = torch.arange(4)

    ranks = rank_scores(TIED, groups[:3], groups)

    assert ranks.ahead.tolist() == [0, 1, 0]
    assert ranks.tied.tolist() == [2, 1, 3]
    assert ranks.places("strict").tolist() == [0, 1, 0]
    assert ranks.places("every").tolist() == [0, 1, 2, 1, 2, 0, 1, 2, 3]


def test_texts_of_the_same_item_are_not_ties_of_each_other() -> None:
    """Five equal captions of one image are all right answers."""
    scores = torch.tensor([[1.0, 1.0, 1.0, 0.5]])

    ranks = rank_scores(scores, torch.tensor([0]), torch.tensor([0, 0, 1, 1]))

    assert (ranks.ahead.tolist(), ranks.tied.tolist()) == ([0], [1])


def test_a_collapsed_model_scores_badly_in_one_form_of_ties_only() -> None:
    """All embeddings equal: strictly larger scores put everything first; why both forms exist."""
    same, index = torch.ones(20, 4), torch.arange(20)

    strict = two_way_recall(same, same, index)
    every = two_way_recall(same, same, index, ties="every")

    assert strict.item_to_text.r1 == 100
    assert every.item_to_text.r1 == pytest.approx(5)
    assert every.text_to_item.mean_rank == pytest.approx(10.5)


@pytest.mark.parametrize("bad", ["nan", "orphan"])
def test_scores_that_cannot_be_ranked_are_refused(bad: str) -> None:
    """NaN compares false with everything, so a diverged model would get a perfect recall."""
    scores, groups = TIED.clone(), torch.arange(3)
    if bad == "nan":
        scores[1, 2] = float("nan")
    else:
        groups[2] = 9

    with pytest.raises(ValueError, match="not numbers" if bad == "nan" else "first: query 2"):
        rank_scores(scores, groups, torch.arange(4))


@pytest.mark.parametrize(
    ("median", "expected"), [("midpoint", 4.5), ("floor", 4.0), ("lower", 3.0)]
)
def test_the_median_of_an_even_number_of_ranks_has_three_forms(
    median: str, expected: float
) -> None:
    """Places 2 and 5 in the middle, so ranks 3 and 6."""
    summary = summarize_places(torch.tensor([0, 9, 5, 2]), median)

    assert summary.median_rank == expected
    assert summary == RecallSummary(25, 50, 100, expected, 5.0)


def test_recall_counts_places_below_k() -> None:
    summary = summarize_places(torch.tensor([0, 1, 4, 5, 9, 10, 99, 0]))

    assert (summary.r1, summary.r5, summary.r10) == (25.0, 50.0, 75.0)


def test_an_item_is_found_by_its_best_text_and_a_text_by_its_one_item() -> None:
    """Two items with three and one texts; text 2 is closer to the other item than to its own."""
    items = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[0.9, 0.0], [0.2, 0.1], [0.1, 0.6], [0.3, 0.5]])

    recall = two_way_recall(items, texts, torch.tensor([0, 0, 0, 1]))

    assert recall.item_to_text == RecallSummary(50, 100, 100, 1, 1.5)
    assert recall.text_to_item == RecallSummary(75, 100, 100, 1, 1.25)
    assert recall.rsum == 525


def test_folds_evaluate_each_part_on_its_own() -> None:
    """In a fold only its own items and texts compete, whatever order the texts come in."""
    items, texts = random(12, 4), random(24, 4, seed=1)
    item_of_text = torch.arange(12).repeat(2)

    folds = recall_of_folds(items, texts, item_of_text, num_folds=3)

    second = [4, 5, 6, 7, 16, 17, 18, 19]
    alone = two_way_recall(items[4:8], texts[second], torch.arange(4).repeat(2))
    assert folds[1] == alone
    mean = mean_of_folds(folds)
    assert mean.rsum == pytest.approx(np.mean([fold.rsum for fold in folds]))
    assert mean.item_to_text.mean_rank == pytest.approx(
        np.mean([fold.item_to_text.mean_rank for fold in folds])
    )
    with pytest.raises(ValueError, match="12 items do not divide into 5"):
        recall_of_folds(items, texts, item_of_text, num_folds=5)


def test_sentences_of_a_video_can_be_merged_by_their_best() -> None:
    """The MSVD form: another video's many sentences stand in front at most once."""
    scores = torch.tensor([[0.5, 0.9, 0.8, 0.1], [0.2, -0.3, -0.4, 0.7]])
    video_of_sentence = torch.tensor([0, 1, 1, 0])

    merged = best_of_groups(scores, video_of_sentence, 2)

    torch.testing.assert_close(merged, torch.tensor([[0.5, 0.9], [0.7, -0.3]]))
    videos = torch.arange(2)
    assert rank_scores(merged, videos, videos).ahead.tolist() == [1, 1]
    assert rank_scores(scores, videos, video_of_sentence).ahead.tolist() == [2, 2]


def test_the_metric_over_batches_is_the_metric_of_all_at_once() -> None:
    """Items come once for each of their texts, as pairs of a data loader do."""
    items, texts = random(6, 4), random(18, 4, seed=1)
    item_of_text = torch.arange(18) * 5 % 6
    ids = item_of_text * 10 + 3
    metric = RetrievalRecall(num_folds=2)

    for part in torch.arange(18).split(5):
        metric.update(items[item_of_text[part]], texts[part], ids[part], ids[part])
    found = metric.compute()

    expected = mean_of_folds(recall_of_folds(items, texts, item_of_text, num_folds=2))
    assert float(found["rsum"]) == pytest.approx(expected.rsum)
    assert float(found["item_to_text_r5"]) == expected.item_to_text.r5
    assert float(found["text_to_item_median_rank"]) == expected.text_to_item.median_rank
    assert len(found) == 11


def test_a_text_without_its_item_is_refused() -> None:
    """Half a split evaluated: its texts would look for items that are not there."""
    metric = RetrievalRecall()
    metric.update(random(2, 3), random(3, 3), torch.tensor([4, 7]), torch.tensor([4, 7, 5]))

    with pytest.raises(ValueError, match="1 texts belong to no item"):
        metric.compute()


@pytest.mark.parametrize("block_bytes", [1, 200, 10**6])
def test_merged_ranks_are_those_of_the_merged_matrix_for_any_block_size(block_bytes: int) -> None:
    """A video finds videos by the best of each one's sentences."""
    items, texts = random(6, 3), random(17, 3, seed=1)
    item_of_text = torch.arange(17) % 6
    merged = best_of_groups(items.double() @ texts.double().T, item_of_text, 6)

    ranks = rank_merged(items, texts, item_of_text, block_bytes=block_bytes)

    whole = rank_scores(merged, torch.arange(6), torch.arange(6))
    assert ranks.ahead.tolist() == whole.ahead.tolist()
    assert ranks.tied.tolist() == whole.tied.tolist()


def test_folds_that_do_not_divide_are_left_out_where_told() -> None:
    """A validation split of another size than the test must not end a training run."""
    metric = RetrievalRecall(3, prefix="folds_", skip_uneven=True)

    metric.update(random(4, 3), random(4, 3, seed=1), torch.arange(4), torch.arange(4))

    assert metric.compute() == {}
