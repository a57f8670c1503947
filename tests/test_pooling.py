"""Pooling of packed rows: what a sample gets must depend on its own rows only."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cache_schema import RowLayout
from trainer.pooling import (
    GeneralizedPooling,
    build_pooling,
    keep_at_random,
    mean_of_frames,
    select_rows,
)

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=5)
NAMES = st.sampled_from(["mean", "first", "last", "gpo"])
WIDTH = 4


def make_rows(lengths: list[int], seed: int = 0, shift: float = 0.0) -> tuple[Tensor, RowLayout]:
    """Random packed rows, float64 so that rounding does not blur the comparison."""
    layout = RowLayout.from_lengths(lengths)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(layout.num_rows, WIDTH, generator=generator, dtype=torch.float64)
    return rows + shift, layout


def make_pooling(name: str) -> torch.nn.Module:
    """The module of this name with fixed random parameters."""
    torch.manual_seed(0)
    return build_pooling(name)


@settings(deadline=None, max_examples=40)
@given(LENGTHS, NAMES, st.integers(0, 3), st.sampled_from([0.0, -50.0]))
def test_a_sample_pools_the_same_alone_and_in_any_batch(
    lengths: list[int], name: str, seed: int, shift: float
) -> None:
    """Padding, other samples and their order must not leak in, nor when all values are negative:
    a padding zero would then be the largest value of a sorted column.
    """
    rows, layout = make_rows(lengths, seed, shift)
    pooling = make_pooling(name)

    together = pooling(rows, layout)

    parts = rows.split(lengths)
    alone = [pooling(part, RowLayout.from_lengths([len(part)])) for part in parts]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-6)
    backwards = pooling(torch.cat(parts[::-1]), RowLayout.from_lengths(lengths[::-1]))
    torch.testing.assert_close(together, backwards.flip(0), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(LENGTHS)
def test_simple_pooling_is_the_mean_first_and_last_row_of_each_sample(lengths: list[int]) -> None:
    rows, layout = make_rows(lengths)
    parts = rows.numpy()
    edges = np.cumsum([0, *lengths])
    samples = [parts[start:stop] for start, stop in pairwise(edges)]

    expected = {
        "mean": np.stack([sample.sum(axis=0) / len(sample) for sample in samples]),
        "first": np.stack([sample[0] for sample in samples]),
        "last": np.stack([sample[-1] for sample in samples]),
    }

    for name, values in expected.items():
        found = build_pooling(name)(rows, layout)
        torch.testing.assert_close(found, torch.from_numpy(values), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["mean", "gpo"])
def test_half_precision_rows_are_summed_in_float32(name: str) -> None:
    """1001 is no bfloat16 number, so a sum rounded to that dtype gives a wrong mean."""
    layout = RowLayout.from_lengths([1001, 3])
    rows = torch.ones(layout.num_rows, WIDTH, dtype=torch.bfloat16)

    pooled = make_pooling(name)(rows, layout)

    torch.testing.assert_close(pooled, torch.ones(2, WIDTH), rtol=1e-5, atol=1e-5)


def test_gpo_does_not_depend_on_the_order_of_tokens() -> None:
    """Each column is sorted first."""
    rows, layout = make_rows([7])
    pooling = make_pooling("gpo")

    torch.testing.assert_close(pooling(rows, layout), pooling(rows[[3, 1, 6, 0, 2, 5, 4]], layout))


def test_gpo_weighs_ranks_by_shares_that_end_at_the_sample_length() -> None:
    """Weights are a softmax over the sample's own ranks, largest value first."""
    _, layout = make_rows([2, 5, 2])
    weights = GeneralizedPooling().rank_weights(layout)

    torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
    assert bool((weights[0, 2:] == 0).all())
    assert bool((weights[1] > 0).all())
    torch.testing.assert_close(weights[0], weights[2], rtol=0, atol=0)


def test_gpo_keeps_its_precision_under_autocast() -> None:
    """Scores are divided by 0.1 before a softmax; bfloat16 scores would move the weights by 5 %."""
    rows, layout = make_rows([4, 6])
    pooling = make_pooling("gpo")
    expected = pooling(rows.float(), layout)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pooling(rows.float(), layout)

    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_gpo_teaches_its_rows_and_its_parameters() -> None:
    """A sample's gradient reaches its own rows and no others."""
    rows, layout = make_rows([3, 4])
    rows.requires_grad_()
    pooling = make_pooling("gpo")

    pooling(rows, layout)[1].sum().backward()

    assert bool((rows.grad[:3] == 0).all())
    torch.testing.assert_close(rows.grad[3:].sum(dim=0), torch.ones(WIDTH, dtype=torch.float64))
    assert float(pooling.linear.weight.grad.abs().max()) > 0


@settings(deadline=None, max_examples=30)
@given(LENGTHS, st.integers(0, 5))
def test_dropping_rows_keeps_the_others_in_order_and_one_of_each_sample(
    lengths: list[int], seed: int
) -> None:
    """At a rate of 0.9 short samples lose all rows in most draws, and are drawn again."""
    rows, layout = make_rows(lengths)

    kept = keep_at_random(layout, 0.9, torch.Generator().manual_seed(seed))
    fewer, shorter = select_rows(rows, layout, kept)

    samples = layout.sample_of_row()
    assert int(shorter.lengths.min()) >= 1
    assert torch.equal(shorter.sample_of_row(), samples[kept])
    assert torch.equal(fewer, rows[kept])
    again = keep_at_random(layout, 0.9, torch.Generator().manual_seed(seed))
    assert torch.equal(kept, again)


def test_rows_are_dropped_at_the_given_rate() -> None:
    """20 % in the recipe: 0.2 +- 0.006 is five standard deviations of 100,000 draws."""
    layout = RowLayout.from_lengths([1000] * 100)

    kept = keep_at_random(layout, 0.2, torch.Generator().manual_seed(0))

    assert abs(float((~kept).float().mean()) - 0.2) < 0.006


def test_a_video_is_the_direction_of_its_real_frames() -> None:
    """Masked frames and the length of a frame's vector must not count."""
    frames = torch.tensor([[[3.0, 0.0], [0.0, 0.5], [9.0, 9.0]], [[1.0, 2.0], [5.0, 5.0], [0, 1]]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])

    videos = mean_of_frames(frames, mask)

    expected = torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, 0.0]])
    torch.testing.assert_close(videos, expected)
