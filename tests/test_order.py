"""Sample order is arithmetic: the same on every machine, in every run, after every resume."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.order import (
    batch_bounds,
    draw_views,
    epoch_order,
    held_out,
    num_batches,
    rank_part,
    step_seed,
)

sizes = st.integers(1, 300)
worlds = st.integers(1, 8)
epochs = st.integers(0, 2**40)


@given(sizes, worlds, epochs)
def test_ranks_share_an_epoch_in_equal_parts_without_overlap(num_samples, world_size, epoch):
    parts = [
        epoch_order(num_samples, seed=7, epoch=epoch, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]

    share = num_samples // world_size
    assert {len(part) for part in parts} == {share}
    assert len(np.unique(np.concatenate(parts))) == share * world_size


@given(sizes, st.integers(0, 2**40), epochs)
def test_one_process_reads_every_sample_once(num_samples, seed, epoch):
    order = epoch_order(num_samples, seed=seed, epoch=epoch)

    assert np.array_equal(np.sort(order), np.arange(num_samples))


@given(sizes, worlds, st.integers(1, 16))
def test_a_step_of_all_ranks_reads_what_one_process_with_the_whole_batch_reads(
    num_samples, world_size, batch_size
):
    """Otherwise two processes would train another model than one with the double batch."""
    alone = epoch_order(num_samples, seed=1, epoch=2)
    parts = [
        epoch_order(num_samples, seed=1, epoch=2, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]

    whole = num_samples // world_size * world_size
    for start, stop in batch_bounds(whole // world_size, batch_size):
        together = np.concatenate([part[start:stop] for part in parts])
        assert set(together) == set(alone[start * world_size : stop * world_size])


def test_the_order_is_the_same_in_every_version():
    """Pins the bit stream: a cache trained elsewhere is read in the same order here."""
    assert epoch_order(10, seed=3, epoch=0).tolist() == [6, 1, 8, 5, 2, 7, 9, 4, 3, 0]


def test_every_place_is_equally_likely():
    """Chi-square over 6 samples, 6 places and 6,000 epochs; fails by chance once in 10,000."""
    orders = np.stack([epoch_order(6, seed=0, epoch=epoch) for epoch in range(6000)])

    counts = np.stack([np.bincount(column, minlength=6) for column in orders.T])
    statistic = ((counts - 1000) ** 2 / 1000).sum()
    assert statistic < 72.2  # 99.99 % quantile: 6 / 5 of chi-square at 25 degrees of freedom
    assert len({tuple(order) for order in orders}) == 720


def test_seeds_and_epochs_give_other_orders():
    orders = {
        tuple(epoch_order(50, seed=seed, epoch=epoch)) for seed in range(5) for epoch in range(5)
    }

    assert len(orders) == 25


@given(st.integers(0, 200), st.integers(1, 40), st.integers(0, 10))
def test_batches_that_start_late_are_the_rest_of_all_batches(num_samples, batch_size, first):
    bounds = batch_bounds(num_samples, batch_size)

    assert batch_bounds(num_samples, batch_size, first_batch=first) == bounds[first:]
    assert len(bounds) == num_batches(num_samples, batch_size)
    assert [i for start, stop in bounds for i in range(start, stop)] == list(range(num_samples))


@given(sizes, worlds)
def test_ranks_evaluate_every_sample_once(num_samples, world_size):
    parts = [
        np.arange(num_samples)[rank_part(num_samples, rank=rank, world_size=world_size)]
        for rank in range(world_size)
    ]

    assert np.concatenate(parts).tolist() == list(range(num_samples))


@given(st.integers(2, 500), st.floats(0.001, 0.999))
def test_the_held_out_part_has_the_asked_size_and_leaves_something(num_samples, fraction):
    chosen = held_out(num_samples, fraction)

    assert 1 <= chosen.sum() <= num_samples - 1
    assert abs(chosen.sum() - num_samples * fraction) <= 1
    assert np.array_equal(chosen, held_out(num_samples, fraction))


@pytest.mark.parametrize("other", [(1, 5, 0, 2), (0, 6, 0, 2), (0, 5, 1, 2)])
def test_steps_seeds_and_ranks_draw_other_numbers(other):
    assert step_seed(0, 5, 0, 2) == step_seed(0, 5, 0, 2)
    assert step_seed(0, 5, 0, 2) != step_seed(*other)


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2**40))
def test_as_many_epochs_as_views_read_each_view_once(num_rows, text_views, item_views, first):
    """No view that was paid for is left unread, and none is read twice before the others."""
    samples = np.stack([np.arange(num_rows) * 7, np.arange(num_rows) % 3 * 9], axis=1)
    views = (text_views, item_views)
    start = first * text_views * item_views

    drawn = np.stack(
        [
            draw_views(samples, views, seed=3, epoch=start + epoch) - samples
            for epoch in range(text_views * item_views)
        ]
    )

    for side, count in enumerate(views):
        turns = drawn[:, :, side].reshape(-1, count, num_rows)
        assert (np.sort(turns, axis=1) == np.arange(count)[None, :, None]).all()


@given(st.permutations(range(20)), st.integers(0, 99))
def test_a_row_has_the_same_view_wherever_it_is_read(order, epoch):
    """On any rank, in any batch and after a resume; all texts of an image see one view of it."""
    samples = np.arange(0, 100, 5)

    together = draw_views(samples, (5,), seed=1, epoch=epoch)
    shuffled = draw_views(samples[order[:7]], (5,), seed=1, epoch=epoch)

    assert (shuffled == together[order[:7]]).all()
    pairs = np.stack([samples[order], np.full(20, 10)], axis=1)
    assert len(set(draw_views(pairs, (1, 5), seed=1, epoch=epoch)[:, 1])) == 1


def test_views_are_drawn_evenly_and_differently_by_row_side_and_seed():
    """A view that all rows share in an epoch would train on one crop at a time."""
    rows = np.arange(30_000) * 4
    pairs = np.stack([rows, rows], axis=1)

    drawn = draw_views(pairs, (4, 4), seed=0, epoch=0) - pairs

    counts = np.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16)
    assert abs(counts - 30_000 / 16).max() < 5 * np.sqrt(30_000 / 16)
    other = draw_views(pairs, (4, 4), seed=1, epoch=0) - pairs
    assert abs((other == drawn).mean() - 0.25) < 0.01


def test_one_view_is_the_row_itself():
    samples = np.array([4, 0, 9])

    assert draw_views(samples, (1,), seed=5, epoch=3).tolist() == [4, 0, 9]
