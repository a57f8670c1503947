"""What training reads: one cache, or two that are joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cache_schema import FeatureBatch, FeatureCache, PairedBatch, PairedCache

from .errors import ConfigError
from .tasks import RetrievalConfig, RetrievalTask, Task, TaskConfig

Batch = FeatureBatch | PairedBatch
Source = FeatureCache | PairedCache
Caches = FeatureCache | Sequence[FeatureCache]
"""One cache, or those of the items and of the texts."""


def open_source(task: TaskConfig | Task, caches: Caches) -> Any:
    """The `Source` of a task: the cache itself, or two that are joined for a task that reads pairs.

    Raises:
        CacheError: The caches have no key or split in common, or a text has no item.
        ConfigError: The task does not read that many caches.
    """
    given = (caches,) if isinstance(caches, FeatureCache) else tuple(caches)
    if isinstance(task, RetrievalConfig | RetrievalTask) and len(given) in (1, 2):
        return PairedCache.join(given[0], given[-1], task.key)
    if len(given) == 1:
        return given[0]
    raise ConfigError(
        "--cache",
        [
            f"got {len(given)} caches, needed one; retrieval reads that of the items, then that "
            "of the texts"
        ],
    )
