"""Check and fingerprint a column of texts without making Python strings of it."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .errors import BadRowError

# ASCII's own mark between entries; white space to whoever trims it.
_UNIT_SEPARATOR = pa.scalar("\x1f", pa.large_string())


class TextHash:
    """A running sha256 over texts, the same however the rows are cut into chunks."""

    def __init__(self) -> None:
        self._texts = hashlib.sha256()
        self._lengths = hashlib.sha256()

    def update(self, texts: pa.LargeStringArray) -> None:
        """Add texts; none of them is null."""
        _, starts, content = texts.buffers()
        offsets = np.frombuffer(starts, dtype="<i8")[texts.offset :][: len(texts) + 1]
        self._lengths.update(np.diff(offsets).tobytes())
        if content is not None and len(texts):
            self._texts.update(memoryview(content)[int(offsets[0]) : int(offsets[-1])])

    def hexdigest(self) -> str:
        """64 hex digits."""
        return hashlib.sha256(self._texts.digest() + self._lengths.digest()).hexdigest()


def joined(column: pa.ChunkedArray) -> pa.Array:
    """One array of all chunks."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def as_texts(column: pa.Array, name: str) -> pa.LargeStringArray:
    """The column as strings, null where a value is not a string.

    Raises:
        BadRowError: No value of the column can be a string.
    """
    kind = column.type
    if _is_json(kind):
        documents = [None if d is None else json.loads(d) for d in column.storage.to_pylist()]
        return pa.array([d if isinstance(d, str) else None for d in documents], pa.large_string())
    if pa.types.is_dictionary(kind):
        return as_texts(column.dictionary_decode(), name)
    if kind in (pa.string(), pa.large_string(), pa.string_view(), pa.null()):
        return column.cast(pa.large_string())
    raise BadRowError(
        f"--data: row 0 of column {name!r} holds {column[0].as_py()!r} ({kind}), needed text. "
        "Choose another --text-column, or convert it to strings."
    )


def is_list(kind: pa.DataType) -> bool:
    """Whether each cell is a list."""
    if pa.types.is_dictionary(kind):
        return is_list(kind.value_type)
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
    )


def word_lists(column: pa.Array, name: str) -> pa.LargeListArray:
    """Lists of words, each word as it is; a row without a list has none.

    Raises:
        BadRowError: The lists hold no strings.
    """
    offsets = np.concatenate([[0], np.cumsum(list_lengths(column))])
    words = as_texts(column.flatten(), name)
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), words)


def joined_words(lists: pa.LargeListArray) -> pa.LargeStringArray:
    """One string for each list, null where a word is missing; other lists give other strings."""
    return pc.binary_join(lists, _UNIT_SEPARATOR)


def list_lengths(column: pa.Array) -> np.ndarray:
    """(rows,) int64: entries of each list; 0 where there is none."""
    return np.asarray(pc.fill_null(pc.list_value_length(column), 0), dtype=np.int64)


def value_at(column: pa.ChunkedArray, row: int) -> object:
    """One value as Python has it, for a message."""
    value = column[row].as_py()
    return json.loads(value) if _is_json(column.type) and value is not None else value


def _is_json(kind: pa.DataType) -> bool:
    """Whether it is a jsonl column of mixed types: every value is a JSON document of its own."""
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == "arrow.json"


def is_blank(texts: pa.LargeStringArray) -> np.ndarray:
    """(rows,) bool: True where a text is missing, empty or only white space."""
    nothing_left = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0)
    return np.asarray(pc.fill_null(nothing_left, True).to_numpy(zero_copy_only=False))
