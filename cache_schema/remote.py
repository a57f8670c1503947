"""Storage on an object store or any other file system that fsspec reaches."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from .errors import StorageError

if TYPE_CHECKING:
    from zarr.abc.store import Store

# Stores without folders: what their file systems make for a missing one is a bucket.
_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
_ADVICE = {
    "s3": '`pip install "unipt[s3]"`',
    "s3a": '`pip install "unipt[s3]"`',
    "gs": "`pip install gcsfs`",
    "gcs": "`pip install gcsfs`",
    "az": "`pip install adlfs`",
    "abfs": "`pip install adlfs`",
}


class RemoteStorage:
    """A prefix on an fsspec file system; samples are read by byte ranges."""

    # Each waits for an answer most of the time. s3fs gave no more with 64.
    parallel_reads = 32

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
            data = files.cat_file(f"{root}/{key}", start=offset, end=offset + len(out))
        if len(data) != len(out):
            raise EOFError(f"{self.path}/{key}: ends at byte {offset + len(data)}")
        out[:] = data

    def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        self._put(key, b"".join(parts), mode="overwrite")

    def write_once(self, key: str, data: bytes) -> bool:
        # Not every store knows the condition below, and some pass it over without a word.
        if self.size(key) is not None:
            return False
        try:
            # A conditional put where the store has one (S3: If-None-Match).
            self._put(key, data, mode="create")
        except FileExistsError:
            return False
        return True

    def make_durable(self, prefix: str) -> None:
        """Object stores answer a put only when it is durable."""

    def names(self, prefix: str) -> list[str]:
        with self._reached() as (files, root):
            files.invalidate_cache()
            try:
                entries = files.ls(f"{root}/{prefix}".rstrip("/"), detail=True)
            except FileNotFoundError:
                return []
        return sorted(
            e["name"].rstrip("/").rsplit("/", 1)[-1] for e in entries if e["type"] == "directory"
        )

    def contents(self) -> list[str]:
        return []

    def delete(self, prefix: str) -> None:
        with self._reached() as (files, root):
            files.invalidate_cache()
            files.rm(f"{root}/{prefix}", recursive=True)

    def seconds_since_change(self, prefix: str) -> float:
        with self._reached() as (files, root):
            files.invalidate_cache()
            found = files.find(f"{root}/{prefix}", detail=True).values()
        stamps = [f.get("mtime") or f.get("LastModified") or f.get("created") for f in found]
        known = [s.timestamp() if hasattr(s, "timestamp") else float(s) for s in stamps if s]
        return time.time() - max(known, default=0.0)

    def temporary_files(self) -> list[str]:
        return []

    def free_bytes(self) -> int | None:
        return None

    def zarr_store(self) -> Store:
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(self.path)

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
                f"{self.path}: access was denied ({_first_line(error)}). Check the credentials, "
                "and what they allow."
            ) from error
        except Exception as error:  # each file system has errors of its own
            raise StorageError(
                f"{self.path}: {type(error).__name__}: {_first_line(error)}. Check the address, "
                "the credentials and the network, then run the same command again."
            ) from error

    def _file_system(self) -> tuple[Any, str]:
        # A forked process has its parent's connections without the thread that serves them.
        if self._opened is None or self._opened[0] != os.getpid():
            import fsspec

            try:
                options = _options(self._protocol)
                files, root = fsspec.core.url_to_fs(self.path, **options)
            except ImportError as error:
                needed = _ADVICE.get(self._protocol, f"`{error}`")
                raise StorageError(
                    f"{self.path}: reading {self._protocol}:// needs {needed}"
                ) from error
            except ValueError as error:
                raise StorageError(f"{self.path}: cannot be reached: {error}") from error
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
    return {"config_kwargs": {"max_pool_connections": RemoteStorage.parallel_reads, **unset}}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or "no reason given"
