"""The shards that this worker makes of a cache that others may be filling as well."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from cache_schema import CacheWriter, Claims, Meter, ShardContents, StopSignals

_LOOK_EVERY_S = 1.0


class Share:
    """One shard after the other, until every shard is finished or is somebody else's.

    Args:
        writer: Of the cache.
        claims: Of this worker.
        stop: Says when no shard may be begun any more.
        meter: Counts samples, also those that others finish.

    Attributes:
        num_written: Samples of the shards that this worker wrote.
    """

    def __init__(
        self, writer: CacheWriter, claims: Claims, stop: StopSignals, meter: Meter
    ) -> None:
        self._writer = writer
        self._claims = claims
        self._stop = stop
        self._meter = meter
        self._taken: set[int] = set()
        self._in_hand: set[int] = set()
        self._counted = set(range(writer.manifest.num_shards)) - set(writer.missing_shards())
        self.num_written = 0

    def __iter__(self) -> Iterator[int]:
        for shard in self._order():
            if self._stop.is_requested or (self._in_hand and not self._are_plenty()):
                return
            if not self._claims.take(shard):
                continue
            if shard not in self._look():
                self._claims.release(shard)  # it was finished just before
                continue
            self._taken.add(shard)
            self._in_hand.add(shard)
            yield shard

    def write(self, shard: int, contents: ShardContents) -> None:
        """Write a shard that was taken, and give up its claim."""
        if self._writer.write_shard(shard, contents):
            self.num_written += len(self._writer.manifest.shard_samples(shard))
        self._claims.release(shard)
        self._in_hand.discard(shard)

    def wait_for_others(self) -> None:
        """Give those a moment who make all that is left, and count what they finish."""
        missing = self._look()
        if missing and missing <= self._claims.of_others() and not self._stop.is_requested:
            time.sleep(_LOOK_EVERY_S)

    def _order(self) -> list[int]:
        """What is missing; those who join others begin somewhere else than they did."""
        missing = self._writer.missing_shards()
        if not (missing and self._claims.of_others()):
            return missing
        start = random.randrange(len(missing))
        return missing[start:] + missing[:start]

    def _are_plenty(self) -> bool:
        """Whether one can be prepared ahead; the last ones are left to whoever has none."""
        others = self._claims.of_others()
        free = set(self._writer.missing_shards()) - others - self._in_hand
        return len(free) > len(others)

    def _look(self) -> set[int]:
        """The shards that are missing now; what others have finished is counted."""
        missing = set(self._writer.missing_shards())
        manifest = self._writer.manifest
        finished = set(range(manifest.num_shards)) - missing
        for shard in finished - self._counted - self._taken:
            self._meter.advance(len(manifest.shard_samples(shard)))
        self._counted |= finished
        return missing
