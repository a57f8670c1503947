"""The shards that this worker makes of a cache that others may be filling as well."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterable, Iterator

from cache_schema import CacheWriter, Claims, Meter, ShardContents, StopSignals

_LOOK_EVERY_S = 1.0


class Share:
    """One shard after the other, until every shard is finished or is somebody else's.

    Args:
        writer: Of the cache.
        missing: The shards that the meter has not counted.
        claims: Of this worker.
        stop: Says when no shard may be begun any more.
        meter: Counts samples, also those that others finish.

    Attributes:
        num_written: Samples of the shards that this worker wrote.
    """

    def __init__(
        self,
        writer: CacheWriter,
        missing: Iterable[int],
        claims: Claims,
        stop: StopSignals,
        meter: Meter,
    ) -> None:
        self._writer = writer
        self._missing = set(missing)
        self._claims = claims
        self._stop = stop
        self._meter = meter
        self._looked = -math.inf
        self._in_hand: set[int] = set()
        self.num_written = 0

    def __iter__(self) -> Iterator[int]:
        for shard in self._order():
            if self._stop.is_requested or (self._in_hand and not self._are_plenty()):
                return
            if shard not in self._look() or not self._claims.take(shard):
                continue
            if self._writer.is_finished(shard):  # after the last look, and its claim given up
                self._claims.release(shard)
                continue
            self._in_hand.add(shard)
            yield shard

    def write(self, shard: int, contents: ShardContents) -> None:
        """Write a shard that was taken, and give up its claim."""
        if self._writer.write_shard(shard, contents):
            self.num_written += len(self._writer.manifest.shard_samples(shard))
        self._missing.discard(shard)
        self._claims.release(shard)
        self._in_hand.discard(shard)

    def is_unfinished(self) -> bool:
        """Whether a shard is still missing; waits a moment for those who make all that is left."""
        self._looked = -math.inf
        missing = self._look()
        if missing and missing <= self._claims.of_others() and not self._stop.is_requested:
            time.sleep(_LOOK_EVERY_S)
        return bool(missing)

    def _order(self) -> list[int]:
        """What is missing; those who join others begin somewhere else than they did."""
        missing = sorted(self._look())
        if not (missing and self._claims.of_others()):
            return missing
        start = random.randrange(len(missing))
        return missing[start:] + missing[:start]

    def _are_plenty(self) -> bool:
        """Whether one can be prepared ahead; the last ones are left to whoever has none."""
        others = self._claims.of_others()
        return len(self._look() - others - self._in_hand) > len(others)

    def _look(self) -> set[int]:
        """The shards that are missing, by what others had finished a second ago at most.

        Not oftener: a listing of ten thousand receipts takes an object store seconds.
        """
        if time.monotonic() - self._looked >= _LOOK_EVERY_S:
            finished = self._missing.difference(self._writer.missing_shards())
            # What is in hand was counted batch by batch.
            for shard in finished - self._in_hand:
                self._meter.advance(len(self._writer.manifest.shard_samples(shard)))
            self._missing -= finished
            self._looked = time.monotonic()
        return self._missing
