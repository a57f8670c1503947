"""The rows of a data set as samples with texts and targets, read from disk as they are needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from pydantic import JsonValue

from .targets import TargetData
from .texts import as_texts, joined


@dataclass(frozen=True)
class SkippedRow:
    """A row that was left out; `row` counts from 0 in its split's source."""

    split: str
    row: int
    reason: str


@dataclass(frozen=True, eq=False)
class SampleSource:
    """Samples of every split.

    Attributes:
        splits: Split name to its number of samples; train, validation, test first.
        text_column: Column of the text.
        text_pair_column: Column of the second text of a pair, or None.
        targets: Target columns, each with one value per sample and split.
        notes: What was guessed or decided, in words, one line each.
        identity: What determines the samples, for a cache's fingerprint.
        skipped: Rows without a usable text.
        tables: Split to its rows, of which only the text columns are read.
        kept: Split to the rows that are samples, (samples,) int64; None where all of them are.
    """

    splits: dict[str, int]
    text_column: str
    text_pair_column: str | None
    targets: tuple[TargetData, ...]
    notes: tuple[str, ...]
    identity: dict[str, JsonValue]
    skipped: tuple[SkippedRow, ...]
    tables: Mapping[str, datasets.Dataset]
    kept: Mapping[str, np.ndarray | None]

    @property
    def num_rows(self) -> int:
        """Samples of all splits together."""
        return sum(self.splits.values())

    def sample_rows(self, split: str) -> np.ndarray:
        """(samples,) int64: the source row of each sample of a split, counted from 0."""
        kept = self.kept[split]
        return np.arange(self.splits[split]) if kept is None else kept

    def samples(self, split: str, start: int, stop: int) -> list[Mapping[str, Any]]:
        """Samples `start` to `stop - 1` of a split: `id` (source row), `text`, maybe `text_pair`.

        Safe to call from several threads.
        """
        rows = self.sample_rows(split)[start:stop]
        if len(rows) == 0:
            return []
        first = int(rows[0])
        table = self.tables[split][first : int(rows[-1]) + 1]
        columns: dict[str, list[Any]] = {"id": rows.tolist()}
        for key, name in (("text", self.text_column), ("text_pair", self.text_pair_column)):
            if name is not None:
                texts = as_texts(joined(table.column(name)), name)
                columns[key] = texts.take(pa.array(rows - first)).to_pylist()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
