"""A bar of a cache that other processes fill: what they have finished is in the cache itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from cache_schema import Manifest, Progress, missing_shards, open_storage, read_manifest

from ..report import Filled

_LOOK_EVERY_S = 0.5


def watch(path: str, progress: Progress, is_alive: Callable[[], bool]) -> Filled:
    """Show how a cache fills.

    Args:
        path: Of the cache.
        progress: Where to report.
        is_alive: Whether somebody still works on it; called every half second, and may raise.

    Returns:
        What was finished meanwhile.
    """
    storage = open_storage(path)
    manifest = read_manifest(storage)
    while manifest is None and is_alive():
        time.sleep(_LOOK_EVERY_S)
        manifest = read_manifest(storage)
    if manifest is None:
        return Filled()
    started = time.perf_counter()
    missing = set(missing_shards(storage, manifest))
    before = _num_samples(manifest, missing)
    done = manifest.num_samples - before
    with progress.meter("extract", manifest.num_samples, "samples", done) as meter:
        alive = True
        while alive:
            alive = is_alive()
            now = set(missing_shards(storage, manifest))
            meter.advance(_num_samples(manifest, missing - now))
            missing = now
            if alive:
                time.sleep(_LOOK_EVERY_S)
    return Filled(before - _num_samples(manifest, missing), time.perf_counter() - started)


def _num_samples(manifest: Manifest, shards: set[int]) -> int:
    return sum(len(manifest.shard_samples(shard)) for shard in shards)
