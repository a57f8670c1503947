"""Which rows are samples: those with a usable input; one for each text where a cell lists several.

C candidates: samples that a block of rows could give.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from .cells import holds_bytes
from .config import OnError
from .errors import BadRowError, DataError
from .media import MediaIndex, media_cells
from .texts import (
    TextHash,
    as_texts,
    is_blank,
    is_list,
    joined,
    joined_words,
    list_lengths,
    value_at,
    word_lists,
)

# Rows looked at together: some megabytes, also of encoded images.
_ROWS_AT_ONCE = 8192
_ENCODED_ROWS_AT_ONCE = 64
_ONE_OF = {"text": "a text", "image": "an image", "video": "a video", "regions": "regions"}


@dataclass(frozen=True)
class SkippedRow:
    """A row that was left out, or one text of it; `row` counts from 0 in its split's source."""

    split: str
    row: int
    reason: str


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one split that are samples.

    Attributes:
        rows: (samples,) int64, the source row of each; None where each row is one sample.
        parts: (samples,) int64, which of the row's texts it has; None where cells hold one.
        is_merged: Whether rows were left out because another one stands for them.
    """

    rows: np.ndarray | None
    parts: np.ndarray | None = None
    is_merged: bool = False

    def merge(self, positions: np.ndarray) -> Rows:
        """Only these samples, which stand for the others too."""
        rows = positions if self.rows is None else self.rows[positions]
        return Rows(rows, None if self.parts is None else self.parts[positions], is_merged=True)


@dataclass(frozen=True, eq=False)
class CheckedRows:
    """What a look at every input of every row found.

    Attributes:
        splits: Split to its samples.
        skipped: What was left out.
        texts: sha256 of all texts, one for each text column, joined by `+`.
        media: The images, videos or regions; None where only texts are read.
    """

    splits: dict[str, Rows]
    skipped: tuple[SkippedRow, ...]
    texts: str
    media: MediaIndex | None


def check_rows(
    loaded: Mapping[str, datasets.Dataset],
    inputs: Mapping[str, str],
    roots: Mapping[str, Path | None],
    on_error: OnError,
    *,
    lists_hold_words: bool = False,
) -> CheckedRows:
    """Look at every cell of the inputs; files of images, videos and regions are not opened.

    Args:
        loaded: Splits, in arrow format.
        inputs: Role to column.
        roots: Split to the folder of its relative paths.
        on_error: What a row without a usable cell does.
        lists_hold_words: Whether a list in the text column is one text.

    Raises:
        BadRowError: A cell is missing, blank or of a wrong type; or a whole column is.
        DataError: A split lacks a column.
    """
    check = _Check(inputs, lists_hold_words)
    splits = {}
    for split, rows in loaded.items():
        for name in inputs.values():
            if name not in rows.column_names:
                raise DataError(
                    f"--data: split {split!r} has no column {name!r}, it has "
                    f"{rows.column_names!r}. Rename its column, or leave the split out."
                )
        splits[split] = check.split(split, rows, roots[split])
    skipped = tuple(check.skipped)
    if skipped and on_error == "fail":
        first, more = skipped[0], len(skipped) - 1
        raise BadRowError(
            f"--data: row {first.row} of split {first.split!r} (the first row is 0): "
            f"{first.reason}, needed {check.needed}"
            f"{f' ({more} more rows are like it)' if more else ''}. "
            "Correct it, or leave such rows out with --on-error skip."
        )
    texts = "+".join(text_hash.hexdigest() for text_hash in check.hashes.values())
    return CheckedRows(splits, skipped, texts, check.media)


class _Check:
    """A walk over the rows of all splits."""

    def __init__(self, inputs: Mapping[str, str], lists_hold_words: bool) -> None:
        self.inputs = inputs
        self.lists_hold_words = lists_hold_words
        self.hashes = {role: TextHash() for role in inputs if role.startswith("text")}
        self.media = None if len(self.hashes) == len(inputs) else MediaIndex()
        self.skipped: list[SkippedRow] = []
        self.needed = "text" if self.media is None else "a value"

    def split(self, split: str, rows: datasets.Dataset, root: Path | None) -> Rows:
        """The samples of one split."""
        table = rows.select_columns(list(dict.fromkeys(self.inputs.values())))
        encoded = any(
            holds_bytes(table.features.arrow_schema.field(n).type) for n in table.column_names
        )
        step = _ENCODED_ROWS_AT_ONCE if encoded else _ROWS_AT_ONCE
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for start in range(0, len(rows), step):
            block_rows, parts = self._block(split, start, table[start : start + step], root)
            found.append((block_rows + start, parts))
        chosen = np.concatenate([block for block, _ in found])
        if not len(chosen):
            needed = " and ".join(_ONE_OF[role] for role in self.inputs if role in _ONE_OF)
            raise BadRowError(f"--data: no row of split {split!r} has {needed}. Check the column.")
        is_whole = len(chosen) == len(rows) and bool((chosen == np.arange(len(rows))).all())
        texts = self.inputs.get("text")
        has_parts = texts is not None and self._lists_texts(
            table.features.arrow_schema.field(texts).type
        )
        all_parts = np.concatenate([parts for _, parts in found]) if has_parts else None
        return Rows(None if is_whole else chosen, all_parts)

    def _lists_texts(self, kind: pa.DataType) -> bool:
        return is_list(kind) and not self.lists_hold_words

    def _block(
        self, split: str, start: int, table: pa.Table, root: Path | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows (from the block's first) and parts of the samples of one block."""
        columns = {role: joined(table.column(name)) for role, name in self.inputs.items()}
        rows_C, parts_C = np.arange(len(table)), np.zeros(len(table), dtype=np.int64)
        wrong_C = np.zeros(len(table), dtype=bool)
        if "text" in columns and self._lists_texts(columns["text"].type):
            rows_C, parts_C, columns["text"] = explode(columns["text"])
            wrong_C = np.zeros(len(rows_C), dtype=bool)
        read: dict[str, Any] = {}
        for role, column in columns.items():
            name = self.inputs[role]
            if role.startswith("text"):
                holds_words = role == "text" and is_list(column.type)
                texts = (
                    joined_words(word_lists(column, name))
                    if holds_words
                    else as_texts(column, name)
                )
                if len(texts) != len(rows_C):
                    texts = texts.take(pa.array(rows_C))
                read[role], bad_C = texts, is_blank(texts)
            else:
                cells = media_cells(column, name, root)
                bad = np.array([cell is None for cell in cells], dtype=bool)
                read[role], bad_C = cells, bad[rows_C]
            for row in rows_C[bad_C & ~wrong_C].tolist():
                value = value_at(table.column(name), row)
                self.skipped.append(SkippedRow(split, start + row, _reason(name, value)))
            wrong_C |= bad_C
        for role, text_hash in self.hashes.items():
            text_hash.update(read[role].filter(pa.array(~wrong_C)))
        if self.media is not None:
            (cells,) = (cells for role, cells in read.items() if role not in self.hashes)
            self.media.add(split, (cells[row] for row in rows_C[~wrong_C].tolist()))
        return rows_C[~wrong_C], parts_C[~wrong_C]


def explode(column: pa.Array) -> tuple[np.ndarray, np.ndarray, pa.Array]:
    """Lists of texts as one candidate for each text; an empty list is one without a text.

    Returns:
        (C,) int64 rows, (C,) int64 places in the list, and the C texts.
    """
    lengths = list_lengths(column)
    counts = np.maximum(lengths, 1)
    rows_C = np.repeat(np.arange(len(column)), counts)
    starts = np.cumsum(counts) - counts
    parts_C = np.arange(len(rows_C)) - np.repeat(starts, counts)
    at_C = np.repeat(np.cumsum(lengths) - lengths, counts) + parts_C
    is_there = np.repeat(lengths > 0, counts)
    texts = column.flatten().take(pa.array(at_C, mask=~is_there))
    return rows_C, parts_C, texts


def _reason(name: str, value: object) -> str:
    if value is None:
        return f"column {name!r} is missing"
    if value == [] or (isinstance(value, str) and re.fullmatch(r"\s*", value)):
        return f"column {name!r} is empty"
    if isinstance(value, dict):
        return f"column {name!r} has neither bytes nor a path"
    return f"column {name!r} holds {value!r}"
