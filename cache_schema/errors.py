"""Errors about caches and user input; each also derives from the built-in kind it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class UserError(ValueError):
    """A mistake that the user can fix: shown as one line, exit code 2, never a traceback."""


class CacheError(UserError):
    """A cache cannot be used as asked."""


class CacheNotFoundError(CacheError, FileNotFoundError):
    """There is no cache at this path."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(
            f"{path}: no cache here (no zarr.json with a unipt manifest). "
            "Make one with `unipt extract`, or check the path."
        )


class IncompleteCacheError(CacheError):
    """Some shards have no receipt yet."""

    def __init__(self, path: str | Path, *, finished: int, total: int) -> None:
        super().__init__(
            f"{path}: {finished} of {total} shards are finished. Run the same `unipt extract` "
            "again to complete it, or pass --allow-partial to use what is there."
        )


class CorruptCacheError(CacheError):
    """Stored bytes are not what was written."""


class DamagedError(ValueError):
    """Bytes of a receipt or an array were read, and are not what was written."""


class FingerprintMismatchError(CacheError):
    """Hidden states come from another backbone, tokenizer, setting or dataset."""

    def __init__(
        self,
        path: str | Path,
        differences: Sequence[str],
        advice: str = "Use another cache path, or the settings it was made with.",
    ) -> None:
        self.differences = tuple(differences)
        super().__init__(f"{path}: made from something else: {'; '.join(differences)}. {advice}")


class StorageError(UserError, OSError):
    """The store refuses: no space left, read-only, unreachable."""
