"""Storage on an object store or any other file system that fsspec reaches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import StorageError

if TYPE_CHECKING:
    from zarr.abc.store import Store


class RemoteStorage:
    """A prefix on an fsspec file system; samples are read by byte ranges."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.path = url.rstrip("/")
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.path)
        except (ImportError, ValueError) as error:
            raise StorageError(f"{url}: cannot be reached: {error}") from error

    def read(self, key: str) -> bytes | None:
        try:
            return bytes(self._files.cat_file(self._at(key)))
        except FileNotFoundError:
            return None

    def size(self, key: str) -> int | None:
        try:
            return int(self._files.size(self._at(key)))
        except FileNotFoundError:
            return None

    def read_into(self, key: str, offset: int, out: memoryview) -> None:
        data = self._files.cat_file(self._at(key), start=offset, end=offset + len(out))
        if len(data) != len(out):
            raise EOFError(f"{self.path}/{key}: ends at byte {offset + len(data)}")
        out[:] = data

    def write(self, key: str, parts: Sequence[bytes | memoryview]) -> None:
        self._make_parent(key)
        self._files.pipe_file(self._at(key), b"".join(parts))

    def write_once(self, key: str, data: bytes) -> bool:
        self._make_parent(key)
        try:
            # "create" is a conditional put where the store has one (S3: If-None-Match).
            self._files.pipe_file(self._at(key), data, mode="create")
        except FileExistsError:
            return False
        return True

    def make_durable(self, prefix: str) -> None:
        """Object stores answer a put only when it is durable."""

    def names(self, prefix: str) -> list[str]:
        self._files.invalidate_cache()
        try:
            entries = self._files.ls(self._at(prefix), detail=True)
        except FileNotFoundError:
            return []
        return sorted(
            e["name"].rstrip("/").rsplit("/", 1)[-1] for e in entries if e["type"] == "directory"
        )

    def contents(self) -> list[str]:
        return []

    def delete(self, prefix: str) -> None:
        self._files.rm(self._at(prefix), recursive=True)

    def seconds_since_change(self, prefix: str) -> float:
        files = self._files.find(self._at(prefix), detail=True).values()
        stamps = [f.get("mtime") or f.get("LastModified") or f.get("created") for f in files]
        known = [s.timestamp() if hasattr(s, "timestamp") else float(s) for s in stamps if s]
        return time.time() - max(known, default=0.0)

    def temporary_files(self) -> list[str]:
        return []

    def free_bytes(self) -> int | None:
        return None

    def zarr_store(self) -> Store:
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(self.path)

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _make_parent(self, key: str) -> None:
        self._files.makedirs(self._at(key).rsplit("/", 1)[0], exist_ok=True)
