"""Columns of images, videos and regions: where each is, which rows share one, what is in it.

A cell is a path, encoded bytes, a struct of both (as `datasets` has it), or a list of those.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from .cells import is_encoded
from .errors import BadRowError, DataError
from .texts import as_texts, is_list, list_lengths

One = str | bytes
Media = One | list[One]
"""A path, encoded bytes, or the frames of a video as those."""

Result = TypeVar("Result")

_NO_FILE = hashlib.sha256(b"there is no such file").digest()
# Waiting for a network file system, more than computing: hashing itself is about 1 GB/s a core.
_THREADS = 16


def media_cells(column: pa.Array, name: str, root: Path | None) -> list[Media | None]:
    """Each cell as a source; None where it is missing, blank, or a list with such an entry.

    Args:
        column: Some rows of the column.
        name: The column, for messages.
        root: Where relative paths are looked up; None if that is not known.

    Raises:
        BadRowError: The cells are neither paths nor encoded.
        DataError: A path is relative and nobody knows to what.
    """
    if is_list(column.type):
        entries = media_cells(column.flatten(), name, root)
        ends = np.cumsum(list_lengths(column)).tolist()
        parts = [entries[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return [_frames(part) for part in parts]
    if is_encoded(column.type):
        if not pa.types.is_struct(column.type):
            return list(column.to_pylist())
        cells = (cell or {} for cell in column.to_pylist())
        return [cell.get("bytes") or _absolute(cell.get("path"), name, root) for cell in cells]
    try:
        paths = as_texts(column, name)
    except BadRowError as error:
        raise BadRowError(
            f"--data: row 0 of column {name!r} holds {column[0].as_py()!r} ({column.type}), needed "
            "a path or an encoded image. Choose another column."
        ) from error
    return [_absolute(path, name, root) for path in paths.to_pylist()]


class MediaIndex:
    """The images, videos or regions of all samples, each file once for all that share it."""

    def __init__(self) -> None:
        self._codes: dict[str, list[int]] = {}
        # What tells one source from another (paths, digests of bytes) to its number.
        self._sources: dict[tuple[One, ...], int] = {}
        self._digests: dict[str, bytes] | None = None

    def add(self, split: str, cells: Iterable[Media]) -> None:
        """Add the sources of the next samples of a split."""
        codes = self._codes.setdefault(split, [])
        for cell in cells:
            entries = cell if isinstance(cell, list) else [cell]
            key = tuple(e if isinstance(e, str) else hashlib.sha256(e).digest() for e in entries)
            codes.append(self._sources.setdefault(key, len(self._sources)))

    def codes(self, split: str) -> np.ndarray:
        """(samples,) int64: equal where the source is the same."""
        return np.array(self._codes[split], dtype=np.int64)

    @cached_property
    def paths(self) -> list[str]:
        """Every file, in the order of its first sample."""
        entries = (entry for key in self._sources for entry in key)
        return list(dict.fromkeys(entry for entry in entries if isinstance(entry, str)))

    @cached_property
    def missing(self) -> frozenset[str]:
        """Paths without a file."""
        there = _map(os.path.isfile, self.paths)
        return frozenset(
            path for path, is_there in zip(self.paths, there, strict=True) if not is_there
        )

    def stamp(self) -> str:
        """sha256 of path, size and time of change of every file; no file is read."""
        hasher = hashlib.sha256()
        for path, found in zip(self.paths, _map(_stat, self.paths), strict=True):
            hasher.update(f"{path}\0{found}\n".encode())
        return hasher.hexdigest()

    def read(self, advance: Callable[[int], None] | None = None) -> None:
        """Read every file once for `digest`; `advance` is told of each."""
        digests = {}
        for path, digest in zip(self.paths, _map(_file_digest, self.paths), strict=True):
            digests[path] = digest
            if advance is not None:
                advance(1)
        self._digests = digests

    def digest(self) -> str:
        """sha256 of the bytes of every sample's source, in order, wherever the files lie."""
        if self._digests is None:
            self.read()
        digests = self._digests or {}
        contents = {
            code: _joined([e if isinstance(e, bytes) else digests.get(e, _NO_FILE) for e in key])
            for key, code in self._sources.items()
        }
        hasher = hashlib.sha256()
        for split, codes in self._codes.items():
            hasher.update(f"{split} {len(codes)}\n".encode())
            hasher.update(b"".join(contents[code] for code in codes))
        return hasher.hexdigest()


def _frames(entries: list[Media | None]) -> Media | None:
    return [e for e in entries if isinstance(e, One)] if entries and all(entries) else None


def _absolute(path: str | None, name: str, root: Path | None) -> str | None:
    if path is None or not path.strip():
        return None
    expanded = os.path.expanduser(path)
    if root is None and not os.path.isabs(expanded):
        raise DataError(
            f"--data: column {name!r} has the path {path!r}, which is relative to a folder that "
            "the data does not tell. Name it with --media-root."
        )
    return expanded if root is None else os.path.join(root, expanded)


def _joined(digests: list[bytes]) -> bytes:
    return digests[0] if len(digests) == 1 else hashlib.sha256(b"".join(digests)).digest()


def _stat(path: str) -> str:
    try:
        found = os.stat(path)
    except OSError:
        return "-"
    return f"{found.st_size} {found.st_mtime_ns}"


def _file_digest(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return _NO_FILE


def _map(look: Callable[[str], Result], paths: list[str]) -> Iterable[Result]:
    with ThreadPoolExecutor(_THREADS, "unipt-files") as pool:
        yield from pool.map(look, paths)
