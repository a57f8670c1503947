"""Who is making which shard, so that several writers of a cache do not make the same one.

CACHE/claims/<shard>/zarr.json   an empty group that says who is making the shard; while it is made

A claim is advice: what is finished is told by receipts alone, and the first receipt wins. So it
does no harm that two writers can, at worst, both take over the claim of one that died.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable
from socket import gethostname
from threading import Event, Lock, Thread

from pydantic import Field

from .errors import StorageError
from .manifest import Document
from .receipts import group_document, parse_group_document, shard_numbers
from .storage import Storage

FOLDER = "claims"
_BEAT_S = 10.0
_LOST_AFTER_S = 60.0  # six beats: a file server may take half a minute to show another's files


class Claim(Document):
    """Somebody is making a shard."""

    writer: str = Field(description="one for each extraction that runs")
    host: str
    pid: int
    beat: int = Field(description="counts up while the writer lives")


class Claims:
    """The shards that this process is making, and a look at those of others.

    Within a `with` statement a thread keeps the claims alive; at its end they are given up.

    Args:
        storage: Of the cache.
        clock: Seconds that pass, as `time.monotonic`.
    """

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage = storage
        self._clock = clock
        self._writer = uuid.uuid4().hex[:12]
        self._mine: set[int] = set()
        self._beat = 0
        self._seen: dict[int, tuple[bytes, float]] = {}
        self._lock = Lock()
        self._ends = Event()
        self._thread = Thread(target=self._keep_alive, name="unipt-claims", daemon=True)

    def __enter__(self) -> Claims:
        self._storage.write_once(f"{FOLDER}/zarr.json", group_document())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()
        for shard in [*self._mine]:
            self.release(shard)

    def of_others(self) -> set[int]:
        """Shards that somebody else claims, dead or alive."""
        return shard_numbers(self._storage.names(FOLDER)) - self._mine

    def take(self, shard: int) -> bool:
        """Claim a shard; False if somebody is making it."""
        if self._write_once(shard):
            return True
        if not self._is_lost(shard):
            return False
        self._delete(claim_folder(shard))
        return self._write_once(shard)

    def release(self, shard: int) -> None:
        """Give up a claim of one's own."""
        with self._lock:
            self._mine.discard(shard)
            self._delete(claim_folder(shard))

    def clear(self) -> None:
        """Remove every claim, of a cache that has no shard left to make."""
        with self._lock:
            self._mine.clear()
            self._delete(FOLDER)

    def _write_once(self, shard: int) -> bool:
        with self._lock:
            try:
                is_taken = self._storage.write_once(_key(shard), self._document())
            except FileNotFoundError:
                return False  # another writer removed the folder in between, to make it again
            if is_taken:
                self._mine.add(shard)
            return is_taken

    def _is_lost(self, shard: int) -> bool:
        """Whether a claim's writer is dead, as far as can be known from here."""
        data = self._storage.read(_key(shard))
        if data is None:
            return True  # given up just now
        claim = _parse(data)
        if claim is not None and claim.host == gethostname() and not _is_running(claim.pid):
            return True
        # Clocks of machines differ, so what counts is how long nothing was seen to change.
        seen = self._seen.get(shard)
        if seen is None or seen[0] != data:
            self._seen[shard] = data, self._clock()
            return False
        return self._clock() - seen[1] > _LOST_AFTER_S

    def _keep_alive(self) -> None:
        while not self._ends.wait(_BEAT_S):
            with self._lock:
                self._beat += 1
                for shard in self._mine:
                    # A beat that fails is one that others do not see: no reason to stop.
                    with contextlib.suppress(OSError, StorageError):
                        self._storage.write(_key(shard), [self._document()])

    def _document(self) -> bytes:
        claim = Claim(writer=self._writer, host=gethostname(), pid=os.getpid(), beat=self._beat)
        return group_document(claim)

    def _delete(self, folder: str) -> None:
        # Not there any more, or not empty again: somebody else is at it.
        with contextlib.suppress(OSError):
            self._storage.delete(folder)


def claim_folder(shard: int) -> str:
    """Where the claim of a shard lies."""
    return f"{FOLDER}/{shard:06d}"


def _key(shard: int) -> str:
    return f"{claim_folder(shard)}/zarr.json"


def _parse(data: bytes) -> Claim | None:
    """A claim; None while its writer is at it."""
    try:
        return Claim.model_validate(parse_group_document(data))
    except ValueError:
        return None


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
