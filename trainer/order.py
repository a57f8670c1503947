"""Which rank reads which sample when: pure functions of numbers, without files or state."""

from __future__ import annotations

import numpy as np

_HOLDOUT_STREAM = 2**64 - 1  # an epoch number that no run reaches: its order cuts the held-out part


def epoch_order(
    num_samples: int, *, seed: int, epoch: int, rank: int = 0, world_size: int = 1
) -> np.ndarray:
    """Positions that one rank reads in one epoch, in order.

    The order of all ranks together is a uniform random permutation: samples are sorted by keys
    drawn from a counter-based generator, so any epoch is found without walking through the ones
    before it. Ranks take turns: step k of all ranks together reads the samples that step k of
    one process with the whole batch would read. With several ranks up to `world_size` - 1
    samples, other ones in each epoch, are left out so that all ranks take equally many steps.

    Args:
        num_samples: Samples of the split.
        seed: Of the run, 0 or more.
        epoch: From 0.
        rank: This process, below `world_size`.
        world_size: How many processes share the epoch.

    Returns:
        (num_samples // world_size,) int64, distinct values in 0..num_samples - 1.

    Source: only the raw 64-bit stream of Philox is used. NumPy keeps bit streams the same in all
    versions (NEP 19), which it does not promise for `Generator.permutation`.
    """
    keys = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_samples)
    order = np.argsort(keys, kind="stable")
    return order[rank : num_samples // world_size * world_size : world_size]


def draw_views(samples: np.ndarray, views: tuple[int, ...], *, seed: int, epoch: int) -> np.ndarray:
    """Choose one view of each sample for one epoch.

    As many epochs as there are views read each view once, starting at a random one; the next ones
    start anew. Which view a sample has in an epoch depends on nothing but the arguments and its
    number, so all ranks, and all texts of an item, see the same one.

    Args:
        samples: (n,) numbers of the rows as they are, or (n, sides) for samples of several sides;
            view v of sample s is sample s + v.
        views: How many views a row has, for each side.
        seed: Of the run, 0 or more.
        epoch: From 0.

    Returns:
        Sample numbers in the shape of `samples`.
    """
    drawn = samples.reshape(len(samples), len(views)).copy()
    for side, (column, count) in enumerate(zip(drawn.T, views, strict=True)):
        turn, place = divmod(epoch, count)
        # The last word keeps these draws apart from those of the order, which start at 0.
        counter = np.array([0, 0, 0, side + 1], np.uint64)
        stream = np.random.Philox(key=np.array([seed, turn], np.uint64), counter=counter)
        starts = stream.random_raw(int(column.max(initial=0)) + 1)[column] % np.uint64(count)
        column += (starts.astype(np.int64) + place) % count
    return drawn.reshape(samples.shape)


def batch_bounds(
    num_samples: int, batch_size: int, *, first_batch: int = 0
) -> list[tuple[int, int]]:
    """Start and stop of each batch of a run of samples; the last one may be shorter."""
    starts = range(first_batch * batch_size, num_samples, batch_size)
    return [(start, min(start + batch_size, num_samples)) for start in starts]


def num_batches(num_samples: int, batch_size: int) -> int:
    """Batches of a run of samples, the shorter last one included."""
    return -(-num_samples // batch_size)


def rank_part(num_samples: int, *, rank: int, world_size: int) -> slice:
    """The consecutive samples that one rank evaluates: all ranks cover each sample once."""
    bounds = [num_samples * part // world_size for part in (rank, rank + 1)]
    return slice(*bounds)


def held_out(num_samples: int, fraction: float) -> np.ndarray:
    """(num_samples,) bool: a random part kept from training, the same in every run.

    It does not depend on the run's seed, so that runs with several seeds are compared on the
    same samples. At least one sample is held out and at least one is left.
    """
    count = min(max(round(num_samples * fraction), 1), num_samples - 1)
    chosen = np.zeros(num_samples, dtype=bool)
    chosen[epoch_order(num_samples, seed=0, epoch=_HOLDOUT_STREAM)[:count]] = True
    return chosen


def step_seed(seed: int, step: int, rank: int, world_size: int) -> int:
    """Seed of torch's generator for one step: dropout repeats after a resume, and differs by rank.

    Learning rates that train side by side share it, so each trains as it would alone.
    """
    key = np.random.SeedSequence([seed, step * world_size + rank])
    return int(key.generate_state(1, np.uint64)[0] >> 1)
