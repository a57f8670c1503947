"""Batches ahead of time: the right samples, in order, bounded, and no error is lost."""

from __future__ import annotations

import threading
import time
import weakref

import numpy as np
import pytest
import torch
from small_caches import states_of
from training_caches import label_cache, tags_cache

from cache_schema import CorruptCacheError, FeatureCache
from trainer.device import dtype_on_arrival
from trainer.loader import BatchLoader, Prefetcher
from trainer.tasks import ClassificationConfig

CPU = torch.device("cpu")


def loader_of(cache: FeatureCache, target: str = "label", dtype: torch.dtype = torch.float32):
    everything = np.arange(cache.num_samples)
    task = ClassificationConfig(target=target).learn(cache, everything, {})
    return BatchLoader(cache, task.reader(cache, everything), device=CPU, dtype=dtype)


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "unipt-prefetch"]


def test_batches_hold_the_asked_samples_with_their_own_rows_and_targets(tmp_path):
    cache = label_cache(tmp_path / "cache")
    samples = np.random.default_rng(0).permutation(cache.num_samples)

    with loader_of(cache).batches(samples, 7) as batches:
        found = list(batches)

    assert [batch.num_samples for batch in found] == [7] * 11 + [3]
    assert torch.cat([batch.sample_ids for batch in found]).tolist() == samples.tolist()
    assert torch.cat([batch.targets["label"] for batch in found]).tolist() == [
        sample % 2 for sample in samples.tolist()
    ]
    lengths = cache.lengths("tokens")
    ends = np.cumsum(lengths)
    states = states_of(lengths, 3, 8)
    expected = torch.cat([states[ends[s] - lengths[s] : ends[s]] for s in samples.tolist()])
    values = torch.cat([batch.streams["tokens"].values for batch in found])
    # Feature 0 carries the label; the others are as they were drawn.
    torch.testing.assert_close(values[:, :, 1:], expected[:, :, 1:], rtol=0, atol=0)


def test_a_late_start_gives_the_rest_of_the_epoch(tmp_path):
    cache = label_cache(tmp_path / "cache")
    loader = loader_of(cache)
    samples = np.arange(50)[::-1]

    with loader.batches(samples, 8) as batches:
        whole = [batch.sample_ids.tolist() for batch in batches]
    with loader.batches(samples, 8, first_batch=4) as batches:
        rest = [batch.sample_ids.tolist() for batch in batches]

    assert rest == whole[4:]
    with loader.batches(samples, 8, first_batch=7) as batches:
        assert list(batches) == []


def test_on_a_cpu_hidden_states_stay_as_they_are_stored(tmp_path):
    """Networks cast them layer by layer; a second copy of every batch would cost time and room."""
    cache = label_cache(tmp_path / "cache", encoding="float16")

    batch = loader_of(cache, dtype=torch.bfloat16).load(np.array([3, 1]))

    assert batch.streams["tokens"].values.dtype == torch.float16
    assert batch.targets["label"].dtype == torch.int64


def test_elsewhere_hidden_states_are_cast_when_they_arrive():
    assert dtype_on_arrival(torch.device("cuda"), torch.bfloat16) == torch.bfloat16


def test_several_labels_become_one_column_per_class(tmp_path):
    cache = tags_cache(tmp_path / "cache")

    marks = loader_of(cache, "tags").load(np.arange(6)).targets["tags"]

    column = cache.target("tags")
    for sample in range(6):
        own = column.values[column.offsets[sample] : column.offsets[sample + 1]]
        assert marks[sample].nonzero().flatten().tolist() == own.tolist()


def test_a_corrupt_sample_stops_the_consumer_with_the_readers_error(tmp_path):
    label_cache(tmp_path / "cache")
    chunk = max(
        (tmp_path / "cache" / "shards").glob("000001-*/tokens/values/c/0/0/0"),
        key=lambda path: path.stat().st_size,
    )
    data = bytearray(chunk.read_bytes())
    data[40] ^= 1
    chunk.write_bytes(data)
    cache = FeatureCache.open(tmp_path / "cache")
    seen = []

    with (
        pytest.raises(CorruptCacheError, match=r"sample 20 .*unipt repair"),
        loader_of(cache).batches(np.arange(40), 5) as batches,
    ):
        seen.extend(batch.sample_ids[0].item() for batch in batches)

    assert seen == [0, 5, 10, 15]
    assert prefetch_threads() == []


def test_leaving_early_ends_the_thread(tmp_path):
    cache = label_cache(tmp_path / "cache")

    with loader_of(cache).batches(np.arange(80), 4) as batches:
        next(iter(batches))
        assert len(prefetch_threads()) == 1

    assert prefetch_threads() == []


def test_no_more_than_four_batches_live_at_once():
    """Memory is bounded by the batch, however large the cache is and however slow the consumer."""
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0

    def make(number):
        nonlocal most
        tensor = torch.full((2,), float(number))
        alive.add(tensor)
        most = max(most, len(alive))
        return tensor

    with Prefetcher(map(make, range(60)), lambda item: item) as items:
        total = 0.0
        for item in items:
            time.sleep(0.002)
            total += item[0].item()

    assert total == sum(range(60))
    assert most <= 4


def test_reading_overlaps_with_computing():
    """20 items of 20 ms each to make and to use take about 0.42 s together, not 0.8 s."""

    def make(number):
        time.sleep(0.02)
        return number

    started = time.monotonic()
    with Prefetcher(map(make, range(20)), lambda item: item) as items:
        for _ in items:
            time.sleep(0.02)

    assert time.monotonic() - started < 0.65


def test_an_error_comes_after_the_items_that_were_made_before_it():
    def items():
        yield 1
        yield 2
        raise RuntimeError("third")

    seen = []
    with (
        pytest.raises(RuntimeError, match="third"),
        Prefetcher(items(), lambda item: item) as found,
    ):
        seen.extend(found)

    assert seen == [1, 2]
