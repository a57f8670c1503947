"""What was read of a cache far away, kept in sparse files on a disk nearby.

FOLDER/<fingerprint>/shards/<attempt>/...   as in the cache; holes where nothing was read yet

No list says which bytes are there. Whoever reads compares CRCs, and those of a hole differ.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from .errors import StorageError
from .storage import LocalStorage, Storage, looks_like_url

_BLOCK = 4 << 20  # bytes that are fetched at once: a request is worth as many as it takes to wait
_KEEP_FREE = 1 << 30
_NUM_LOCKS = 1024


@dataclass(frozen=True)
class Chunk:
    """The bytes of one array of a shard."""

    key: str
    num_bytes: int


class LocalCopy:
    """Reads of a cache's chunks, each byte from far away at most once while there is space.

    Any number of processes may share a folder: what they write is the same.

    Args:
        folder: Of this cache's files.
        storage: Of the cache.
    """

    # As many blocks are in memory while they are fetched.
    parallel_reads = 8

    def __init__(self, folder: Path, storage: Storage) -> None:
        self._near = LocalStorage(folder)
        self._far = storage
        self._locks = os.getpid(), [Lock() for _ in range(_NUM_LOCKS)]
        self._has_space = True

    @classmethod
    def beside(cls, storage: Storage, parent: Path, fingerprint: str) -> LocalCopy | None:
        """The copy of a cache in a folder of copies; None where the cache is on the same disk.

        Raises:
            StorageError: The folder cannot be made or written.
        """
        if looks_like_url(parent):
            raise StorageError(f"{parent}: is a URL, needed a folder of this machine for the copy")
        folder = parent.expanduser().absolute() / fingerprint[:16]
        if isinstance(storage, LocalStorage):
            existing = next(path for path in (folder, *folder.parents) if path.exists())
            if existing.stat().st_dev == storage.root.stat().st_dev:
                return None
        try:
            (folder / "shards").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder / "shards"):
                pass
        except OSError as error:
            raise StorageError(
                f"{folder}: cannot be written ({error.strerror}). Choose another folder for the "
                "local copy."
            ) from error
        return cls(folder, storage)

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return self._near.root

    @property
    def free_bytes(self) -> int:
        """How much more it can keep, about."""
        return max(0, (self._near.free_bytes() or 0) - _KEEP_FREE)

    @property
    def num_bytes(self) -> int:
        """How much of the cache it holds, about: holes of sparse files take no space."""
        total = 0
        for folder, _, names in os.walk(self.folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # removed just now
                    total += 512 * os.stat(os.path.join(folder, name)).st_blocks
        return total

    def read_into(
        self, chunk: Chunk, offset: int, out: memoryview, is_right: Callable[[], bool]
    ) -> bool:
        """Fill `out` with the bytes from `offset` on.

        Args:
            chunk: Where they lie.
            offset: Where to begin.
            out: Is filled.
            is_right: Whether what `out` holds is what was written.

        Returns:
            What `is_right` says in the end.

        Raises:
            EOFError: The chunk ends before.
            FileNotFoundError: There is no such chunk.
            StorageError: The cache cannot be reached.
        """
        if self._read_near(chunk.key, offset, out) and is_right():
            return True
        start = offset // _BLOCK * _BLOCK
        with self._lock_of(chunk.key, start):
            # Another thread may have fetched the block for a neighbour meanwhile.
            if self._read_near(chunk.key, offset, out) and is_right():
                return True
            if not self._may_write():
                self._far.read_into(chunk.key, offset, out)
                return is_right()
            stop = min(chunk.num_bytes, -(-(offset + len(out)) // _BLOCK) * _BLOCK)
            blocks = memoryview(bytearray(stop - start))
            self._far.read_into(chunk.key, start, blocks)
            out[:] = blocks[offset - start : offset - start + len(out)]
            if not is_right():
                return False
            self._write_near(chunk.key, start, blocks)
            # What was open may be a file that somebody has removed.
            self._near.forget(chunk.key)
            return True

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "storage": self._far}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # same class, locks of its own

    def _lock_of(self, key: str, start: int) -> Lock:
        # A forked process may have its parent's locks held, by threads that it does not have.
        if self._locks[0] != os.getpid():
            self._locks = os.getpid(), [Lock() for _ in range(_NUM_LOCKS)]
        return self._locks[1][hash((key, start)) % _NUM_LOCKS]

    def _read_near(self, key: str, offset: int, out: memoryview) -> bool:
        """Whether something lies there: bytes that are all zero are a hole, whatever their CRC."""
        try:
            self._near.read_into(key, offset, out)
        except (OSError, EOFError):
            return False
        return any(out[:64]) or bool(np.frombuffer(out, np.uint8).any())

    def _may_write(self) -> bool:
        """Whether space is left; once there is none, the rest is read from far away."""
        self._has_space = self._has_space and self.free_bytes > 0
        return self._has_space

    def _write_near(self, key: str, offset: int, data: memoryview) -> None:
        path = self._near.root / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                while len(data):
                    written = os.pwrite(descriptor, data, offset)
                    data, offset = data[written:], offset + written
            finally:
                os.close(descriptor)
        except OSError:
            self._has_space = False  # a full disk or quota: what was read is right all the same
