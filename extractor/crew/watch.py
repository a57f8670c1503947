"""A bar of a cache that other processes fill: what they have finished is in the cache itself."""

from __future__ import annotations

import time
from collections.abc import Callable

from cache_schema import (
    Manifest,
    Progress,
    Storage,
    missing_shards,
    open_storage,
    read_manifest,
)

from ..report import Filled

_LOOK_EVERY_S = 0.5


def watch(
    path: str,
    progress: Progress,
    is_alive: Callable[[], bool],
    *,
    has_begun: Callable[[], bool] = lambda: True,
    num_made: Callable[[], int] = lambda: 0,
) -> Filled:
    """Show how a cache fills.

    Args:
        path: Of the cache.
        progress: Where to report.
        is_alive: Whether somebody still works on it; called every half second, and may raise.
        has_begun: Whether the cache that lies there is known to be the one that is asked for.
        num_made: Samples that went through a backbone meanwhile, where that is known: shards take
            their time until they are finished.

    Returns:
        What was finished meanwhile.
    """
    storage = open_storage(path)
    manifest = read_manifest(storage)
    done = 0 if manifest is None else _num_finished(storage, manifest)
    while (manifest is None or not has_begun()) and is_alive():
        time.sleep(_LOOK_EVERY_S)
        manifest = manifest or read_manifest(storage)
    if manifest is None:
        return Filled()
    started = time.perf_counter()
    finished = shown = done
    with progress.meter("extract", manifest.num_samples, "samples", done) as meter:
        alive = True
        while alive:
            alive = is_alive()
            finished = _num_finished(storage, manifest)
            now = max(shown, finished, min(done + num_made(), manifest.num_samples))
            meter.advance(now - shown)
            shown = now
            if alive:
                time.sleep(_LOOK_EVERY_S)
    return Filled(finished - done, time.perf_counter() - started)


def _num_finished(storage: Storage, manifest: Manifest) -> int:
    """Samples."""
    missing = missing_shards(storage, manifest)
    return manifest.num_samples - sum(len(manifest.shard_samples(shard)) for shard in missing)
