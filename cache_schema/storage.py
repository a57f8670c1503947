"""Where the bytes of a cache live: a local folder or any store that fsspec can reach.

Keys are `/`-separated paths below the cache's root, as in Zarr.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Protocol

from .direct_io import write_past_cache
from .errors import StorageError

_LIKE_URL = re.compile(r"[A-Za-z][A-Za-z0-9+]+:/")  # pathlib makes one slash of two
_URL = re.compile(r"[a-z][a-z0-9+]+://.")
_TEMPORARY = ".unfinished-"
_MAX_OPEN_FILES = 256  # of the usual limit of 1,024 per process


class Storage(Protocol):
    """The few things a cache asks of its store.

    Attributes:
        path: Where it is.
        parallel_reads: How many reads at a time are worth it.
        is_local: Whether bytes that were right once are trusted to stay so.
    """

    path: str
    parallel_reads: int
    is_local: bool

    def read(self, key: str) -> bytes | None:
        """All bytes under a key; None if there is no such key."""

    def size(self, key: str) -> int | None:
        """How many bytes lie under a key; None if there is no such key."""

    def read_into(self, key: str, offset: int, out: memoryview) -> None:
        """Fill `out` with the bytes from `offset` on; EOFError if there are fewer."""

    def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        """Store the parts one after the other, replacing what was there."""

    def write_once(self, key: str, data: bytes) -> bool:
        """Store `data` durably only if the key is free; False if it was taken."""

    def make_durable(self, prefix: str) -> None:
        """Return only when everything below `prefix` would survive a power cut."""

    def names(self, prefix: str) -> list[str]:
        """Names of the folders directly below `prefix`, sorted."""

    def contents(self) -> list[str]:
        """Names of files and folders of a local folder, but hidden ones; empty for other stores."""

    def delete(self, prefix: str) -> None:
        """Remove everything below `prefix`."""

    def seconds_since_change(self, prefix: str) -> float:
        """How long ago anything below `prefix` last changed."""

    def temporary_files(self) -> list[str]:
        """Keys of half-written files that a crash left outside of shards."""

    def free_bytes(self) -> int | None:
        """Free space, where that has a meaning."""


def open_storage(path: str | Path) -> Storage:
    """The storage behind a local path or a URL such as `s3://bucket/cache`."""
    text = str(path)
    if looks_like_url(text) and not _URL.match(text):
        scheme = text.partition(":")[0].lower()
        raise StorageError(f"{text}: is no URL; needed {scheme}://PLACE/CACHE, or a folder's path")
    if "://" in text and not text.startswith("file://"):
        from .remote import RemoteStorage

        return RemoteStorage(text)
    return LocalStorage(Path(text.removeprefix("file://")))


def looks_like_url(path: str | Path) -> bool:
    """Whether somebody meant a URL, where only a path will do."""
    return bool(_LIKE_URL.match(str(path)))


class LocalStorage:
    """A folder. Reads go through `pread`: no mapped pages that count as memory, and a file
    that was cut short is an error instead of a killed process."""

    # pread releases the interpreter lock; more gave nothing on 2 cores.
    parallel_reads = 4
    is_local = True

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser()
        self.path = str(root)
        self._files: OrderedDict[str, int] = OrderedDict()
        self._locked = os.getpid(), Lock()

    def read(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def size(self, key: str) -> int | None:
        try:
            return (self.root / key).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_into(self, key: str, offset: int, out: memoryview) -> None:
        done = 0
        with self._descriptor(key) as descriptor:
            while done < len(out):
                count = os.preadv(descriptor, [out[done:]], offset + done)
                if count == 0:
                    raise EOFError(f"{self.root / key}: ends at byte {offset + done}")
                done += count

    def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        target = self.root / key
        with self._explained():
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb", buffering=0) as file:
                for part in parts:
                    view = memoryview(part).cast("B")
                    view = view[write_past_cache(file.fileno(), view) :]
                    while len(view):
                        view = view[file.write(view) :]

    def write_once(self, key: str, data: bytes) -> bool:
        target = self.root / key
        temporary = self.root / f"{_TEMPORARY}{uuid.uuid4().hex[:12]}"
        with self._explained():
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                # link() fails if the name is taken, atomically, also across machines on NFS.
                os.link(temporary, target)
            except FileExistsError:
                return False
            finally:
                temporary.unlink(missing_ok=True)
            _sync(target.parent)
            _sync(target.parent.parent)
        return True

    def make_durable(self, prefix: str) -> None:
        for folder, _, files in os.walk(self.root / prefix, topdown=False):
            for name in files:
                # A cache is larger than what is read of it soon, and a job's memory limit counts
                # the pages of files: they go back when the disk has what was written.
                _sync(Path(folder, name), release=True)
            _sync(Path(folder))
        _sync((self.root / prefix).parent)

    def names(self, prefix: str) -> list[str]:
        try:
            with os.scandir(self.root / prefix) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []

    def contents(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.root) if not name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def delete(self, prefix: str) -> None:
        self.forget(prefix)
        with self._explained():
            target = self.root / prefix
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    def forget(self, prefix: str) -> None:
        """Open files anew when they are read next."""
        with self._guard():
            for key in [k for k in self._files if k.startswith(prefix)]:
                os.close(self._files.pop(key))

    def seconds_since_change(self, prefix: str) -> float:
        tree = [self.root / prefix, *(self.root / prefix).rglob("*")]
        return time.time() - max(path.stat().st_mtime for path in tree)

    def temporary_files(self) -> list[str]:
        return sorted(path.name for path in self.root.glob(f"{_TEMPORARY}*"))

    def free_bytes(self) -> int | None:
        existing = next(p for p in (self.root, *self.root.absolute().parents) if p.exists())
        return shutil.disk_usage(existing).free

    def close(self) -> None:
        """Close every open file."""
        with self._guard():
            while self._files:
                os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        try:  # noqa: SIM105  # at the end of a process contextlib may be gone already
            self.close()
        except (OSError, AttributeError, TypeError):
            pass

    def __getstate__(self) -> dict[str, object]:
        return {"root": self.root, "path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]  # same class, fresh descriptors

    def _guard(self) -> Lock:
        # A forked process may have its parent's lock held, by a thread that it does not have.
        if self._locked[0] != os.getpid():
            self._locked = os.getpid(), Lock()
        return self._locked[1]

    @contextlib.contextmanager
    def _descriptor(self, key: str) -> Iterator[int]:
        # A duplicate keeps the file open for this read even if another thread evicts the entry.
        with self._guard():
            if key not in self._files:
                while len(self._files) >= _MAX_OPEN_FILES:
                    os.close(self._files.popitem(last=False)[1])
                self._files[key] = os.open(self.root / key, os.O_RDONLY | os.O_CLOEXEC)
            self._files.move_to_end(key)
            descriptor = os.dup(self._files[key])
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what a file system refuses into one line that says what to do."""
        try:
            yield
        except OSError as error:
            advice = {
                errno.ENOSPC: "the disk is full. Free some space and run the same command again; "
                "finished shards are kept.",
                errno.EDQUOT: "your quota is used up. Free some space and run the same command "
                "again; finished shards are kept.",
                errno.EROFS: "the file system is read-only. Choose another --cache path.",
                errno.EACCES: "you may not write here. Choose another --cache path.",
                errno.EPERM: "you may not write here. Choose another --cache path.",
                errno.ENOTDIR: "a file is in the way. Choose another --cache path.",
            }.get(error.errno or 0)
            if advice is None:
                raise
            raise StorageError(f"{self.root}: {advice}") from error


def _sync(path: Path, *, release: bool = False) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if release and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
