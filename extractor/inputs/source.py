"""The rows of a data set as samples with inputs and targets, read from disk as they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from pydantic import JsonValue

from .media import Media, MediaIndex, media_cells
from .rows import Rows, SkippedRow, explode
from .targets import TargetData
from .texts import as_texts, is_list, joined, word_lists

# Rows between chosen ones up to which a block is read whole: faster than reading row by row.
_MAX_SPAN = 4


@dataclass(frozen=True, eq=False)
class SampleSource:
    """Samples of every split.

    Attributes:
        splits: Split name to its number of samples; train, validation, test first.
        inputs: Role (`text`, `text_pair`, `image`, ...) to the column it is read from.
        targets: Target columns, keys among them, each with one value per sample and split.
        notes: What was guessed or decided, in words, one line each.
        rows_identity: What determines the samples but the contents of files that they name.
        skipped: Rows without a usable input.
        tables: Split to its rows, of which only the inputs are read.
        rows: Split to the rows that are samples.
        roots: Split to the folder of its relative paths.
        media: Where the images, videos or regions are; None where only texts are read.
    """

    splits: dict[str, int]
    inputs: Mapping[str, str]
    targets: tuple[TargetData, ...]
    notes: tuple[str, ...]
    rows_identity: dict[str, JsonValue]
    skipped: tuple[SkippedRow, ...]
    tables: Mapping[str, datasets.Dataset]
    rows: Mapping[str, Rows]
    roots: Mapping[str, Path | None]
    media: MediaIndex | None = None

    @property
    def num_rows(self) -> int:
        """Samples of all splits together."""
        return sum(self.splits.values())

    @cached_property
    def identity(self) -> dict[str, JsonValue]:
        """What determines the samples, for a cache's fingerprint.

        Every file of an image, a video or regions is read for it, unless `media.read` has done
        so: size and time of change do not tell a file from another that was put in its place, and
        reading costs little beside decoding.
        """
        if self.media is None:
            return self.rows_identity
        return {**self.rows_identity, "media": self.media.digest()}

    def sample_rows(self, split: str) -> np.ndarray:
        """(samples,) int64: the source row of each sample of a split, counted from 0."""
        rows = self.rows[split].rows
        return np.arange(self.splits[split]) if rows is None else rows

    def samples(self, split: str, start: int, stop: int) -> list[Mapping[str, Any]]:
        """Samples `start` to `stop - 1` of a split: `id` (source row) and each role that is read.

        Where cells list several texts, `part` is the place of the sample's in its list; where
        they list words, the text is that list. Safe to call from several threads.
        """
        rows = self.sample_rows(split)[start:stop]
        if len(rows) == 0:
            return []
        table, places = self._table(split, rows)
        parts = self.rows[split].parts
        columns: dict[str, list[Any]] = {"id": rows.tolist()}
        if parts is not None:
            columns["part"] = parts[start:stop].tolist()
        for role, name in self.inputs.items():
            if not role.startswith("text"):
                columns[role] = self._media(split, table.column(name), name, places)
                continue
            column = joined(table.column(name))
            if role == "text" and parts is not None:
                list_rows, _, texts = explode(column)
                at = np.searchsorted(list_rows, places) + parts[start:stop]
                columns[role] = as_texts(texts, name).take(pa.array(at)).to_pylist()
            elif role == "text" and is_list(column.type):
                columns[role] = word_lists(column, name).take(pa.array(places)).to_pylist()
            else:
                columns[role] = as_texts(column, name).take(pa.array(places)).to_pylist()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _media(
        self, split: str, column: pa.ChunkedArray, name: str, places: np.ndarray
    ) -> list[Media | None]:
        """The sources at these places of a column, each read once."""
        used, back = np.unique(places, return_inverse=True)
        cells: list[Media | None] = []
        start = 0
        # Chunk by chunk: joined, the bytes of many images would be too many for one array.
        for chunk in column.chunks:
            inside = used[(used >= start) & (used < start + len(chunk))] - start
            cells += media_cells(chunk.take(pa.array(inside)), name, self.roots[split])
            start += len(chunk)
        return [cells[at] for at in back.tolist()]

    def _table(self, split: str, rows: np.ndarray) -> tuple[pa.Table, np.ndarray]:
        """Rows that hold these ones, and where each of these is among them."""
        first, last = int(rows[0]), int(rows[-1])
        if last - first < _MAX_SPAN * len(rows):
            return self.tables[split][first : last + 1], rows - first
        used, places = np.unique(rows, return_inverse=True)
        return self.tables[split][used.tolist()], places
