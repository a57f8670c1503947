"""Storage on an object store or any other file system that fsspec reaches."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from .errors import StorageError

# Stores without folders, and what reaches them. For a missing folder they would make a bucket.
_BUCKETS = {
    "s3": '`pip install "unipt[s3]"`',
    "s3a": '`pip install "unipt[s3]"`',
    "gs": "`pip install gcsfs`",
    "gcs": "`pip install gcsfs`",
    "az": "`pip install adlfs`",
    "abfs": "`pip install adlfs`",
    "abfss": "`pip install adlfs`",
}
# What file systems call the time of the last change.
_CHANGED = ("mtime", "LastModified", "last_modified", "updated", "created", "creation_time")


class RemoteStorage:
    """A prefix on an fsspec file system; samples are read by byte ranges."""

    # Each waits for an answer most of the time.
    parallel_reads = 32
    # Nobody checks what comes over a network, and nobody says when something there is replaced.
    is_local = False

    def __init__(self, url: str) -> None:
        self.path = url.rstrip("/")
        self._opened: tuple[int, Any, str] | None = None
        self._file_system()

    def read(self, key: str) -> bytes | None:
        with self._reached() as (files, root):
            try:
                return bytes(files.cat_file(f"{root}/{key}"))
            except FileNotFoundError:
                return None

    def size(self, key: str) -> int | None:
        with self._reached() as (files, root):
            try:
                return int(files.size(f"{root}/{key}"))
            except FileNotFoundError:
                return None

    def read_into(self, key: str, offset: int, out: memoryview) -> None:
        with self._reached() as (files, root):
            try:
                data = files.cat_file(f"{root}/{key}", start=offset, end=offset + len(out))
            except OSError:
                # A range behind the end is an error on some stores, of many kinds.
                size = self.size(key)
                if size is None or size >= offset + len(out):
                    raise
                data = b""
        if len(data) != len(out):
            raise EOFError(f"{self.path}/{key}: ends before byte {offset + len(out)}")
        out[:] = data

    def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        self._put(key, b"".join(parts), mode="overwrite")

    def write_once(self, key: str, data: bytes) -> bool:
        # Not every store knows the condition below, and some pass it over without a word.
        if self.size(key) is not None:
            return False
        # Clients try again by themselves when an answer was lost, and are then refused because of
        # what they wrote before: what lies there tells.
        try:
            # A conditional put where the store has one (S3: If-None-Match).
            self._put(key, data, mode="create")
        except FileExistsError:
            return self.read(key) == data  # None where it was removed since
        except StorageError:
            found = self.read(key)  # refused in other words, or not reached
            if found is None:
                raise
            return found == data
        return True

    def make_durable(self, prefix: str) -> None:
        """Object stores answer a put only when it is durable."""

    def names(self, prefix: str) -> list[str]:
        found = self._entries(prefix)
        return sorted(name for name, kind in found.items() if kind == "directory")

    def contents(self) -> list[str]:
        return sorted(name for name in self._entries("") if not name.startswith("."))

    def delete(self, prefix: str) -> None:
        with self._reached() as (files, root), contextlib.suppress(FileNotFoundError):
            files.invalidate_cache()
            files.rm(f"{root}/{prefix}", recursive=True)

    def seconds_since_change(self, prefix: str) -> float:
        with self._reached() as (files, root):
            files.invalidate_cache()
            found = files.find(f"{root}/{prefix}", detail=True).values()
        stamps = [next((f[n] for n in _CHANGED if f.get(n)), None) for f in found]
        if not stamps or None in stamps:
            return 0.0  # not known: it may be at work
        known = [s.timestamp() if hasattr(s, "timestamp") else float(s) for s in stamps if s]
        return time.time() - max(known)

    def temporary_files(self) -> list[str]:
        return []

    def free_bytes(self) -> int | None:
        return None

    def _entries(self, prefix: str) -> dict[str, str]:
        """Name of everything directly below a prefix to its kind."""
        with self._reached() as (files, root):
            files.invalidate_cache()
            try:
                found = files.ls(f"{root}/{prefix}".rstrip("/"), detail=True)
            except FileNotFoundError:
                return {}
        return {entry["name"].rstrip("/").rsplit("/", 1)[-1]: entry["type"] for entry in found}

    def _put(self, key: str, data: bytes, mode: str) -> None:
        with self._reached() as (files, root):
            try:
                files.pipe_file(f"{root}/{key}", data, mode=mode)
            except FileNotFoundError as error:
                if self._protocol in _BUCKETS:
                    raise StorageError(
                        f"{self.path}: there is no such bucket. Make it first, or check the path."
                    ) from error
                files.makedirs(f"{root}/{key}".rsplit("/", 1)[0], exist_ok=True)
                files.pipe_file(f"{root}/{key}", data, mode=mode)

    @property
    def _protocol(self) -> str:
        return self.path.partition("://")[0]

    @contextlib.contextmanager
    def _reached(self) -> Iterator[tuple[Any, str]]:
        """The file system and where the cache lies on it; its failures become one line.

        Raises:
            StorageError: Whatever went wrong, but that a file is there or is not.
        """
        try:
            yield self._file_system()
        except (FileNotFoundError, FileExistsError, StorageError):
            raise
        except PermissionError as error:
            raise StorageError(
                f"{self.path}: access was denied ({_one_line(error)}). Check the credentials, "
                "and what they allow."
            ) from error
        except Exception as error:  # each file system has errors of its own
            raise StorageError(
                f"{self.path}: {type(error).__name__}: {_one_line(error)}. Check the address, the "
                "credentials and the network, then try again."
            ) from error

    def _file_system(self) -> tuple[Any, str]:
        # A forked process has its parent's connections without the thread that serves them.
        if self._opened is None or self._opened[0] != os.getpid():
            import fsspec

            try:
                options = _options(self._protocol)
                files, root = fsspec.core.url_to_fs(self.path, **options)
            except ImportError as error:
                needed = _BUCKETS.get(self._protocol, f"`{error}`")
                raise StorageError(
                    f"{self.path}: reading {self._protocol}:// needs {needed}"
                ) from error
            except Exception as error:  # each file system has errors of its own
                raise StorageError(
                    f"{self.path}: cannot be reached: {type(error).__name__}: {_one_line(error)}. "
                    "Check the address."
                ) from error
            self._opened = os.getpid(), files, root
        return self._opened[1], self._opened[2]

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]  # same class, connections of its own


def _options(protocol: str) -> dict[str, Any]:
    """What a file system is opened with."""
    if protocol not in ("s3", "s3a"):
        return {}
    # Caches carry CRCs of their own, and stores that only speak S3's language stumble over these.
    settings = ("request_checksum_calculation", "response_checksum_validation")
    unset = {name: "when_required" for name in settings if f"AWS_{name.upper()}" not in os.environ}
    # A server that accepts and does not answer is given up in two minutes instead of seven.
    patience = {"connect_timeout": 10, "read_timeout": 20}
    return {
        "use_listings_cache": False,  # others write here too
        "config_kwargs": {
            "max_pool_connections": RemoteStorage.parallel_reads,
            **patience,
            **unset,
        },
    }


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or "no reason given"
