"""Open a data set: choose columns, check every text, read the targets, fingerprint the rows."""

from __future__ import annotations

import re
from collections.abc import Mapping

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from .columns import Columns, choose_columns
from .config import DataConfig, OnError
from .errors import BadRowError, DataError
from .loading import load_splits
from .locate import Location, hub_commit, locate
from .source import SampleSource, SkippedRow
from .targets import TargetData, read_target
from .texts import TextHash, as_texts, is_blank, joined, value_at

# Rows looked at together while checking texts: some megabytes.
_ROWS_AT_ONCE = 8192
# Rows from which to tell words from numbers in an untyped column.
_ROWS_TO_TELL = 1000
_NUMBER_CELL = r"^\s*([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)?\s*$"

Splits = Mapping[str, datasets.Dataset]
# Split to the rows that are samples, (samples,) int64; None where all of them are.
Kept = dict[str, np.ndarray | None]


def open_data(config: DataConfig) -> SampleSource:
    """Open a data set for reading.

    Raises:
        DataError: The data is not there, cannot be read, lacks a column or a split, or has a row
            without a text while `on_error` is `fail`.
    """
    loaded = {split: rows.with_format("arrow") for split, rows in load_splits(config).items()}
    places = locate(config)
    untyped = all(place.kind in ("csv", "tsv") for place in places)
    names = list(dict.fromkeys(c for rows in loaded.values() for c in rows.column_names))
    columns = choose_columns(config, names, {name: _is_textual(loaded, name) for name in names})
    inputs = [name for name in (columns.text, columns.text_pair) if name is not None]
    kept, skipped, digest = _check_texts(loaded, inputs, config.on_error)
    targets, notes = _read_targets(loaded, kept, columns, untyped=untyped)
    splits = {s: len(r) if (k := kept[s]) is None else len(k) for s, r in loaded.items()}
    identity: dict[str, JsonValue] = {
        "splits": dict(splits),
        "texts": digest,
        "targets": {target.spec.name: target.digest() for target in targets},
        "skipped_rows": len(skipped),
    }
    return SampleSource(
        splits=splits,
        text_column=columns.text,
        text_pair_column=columns.text_pair,
        targets=targets,
        notes=(*_stale(places), *columns.notes, *notes),
        identity=identity,
        skipped=skipped,
        tables={split: rows.select_columns(inputs) for split, rows in loaded.items()},
        kept=kept,
    )


def _stale(places: list[Location]) -> list[str]:
    return [
        f"{place.hub_id}: the hub cannot be reached, so the local copy is read as it is"
        for place in places
        if place.hub_id is not None and hub_commit(place.hub_id) is None
    ]


def _is_textual(loaded: Splits, name: str) -> bool:
    for rows in loaded.values():
        if name in rows.column_names:
            column = joined(rows.select_columns([name])[:_ROWS_TO_TELL].column(name))
            try:
                words = as_texts(column, name)
            except BadRowError:
                return False
            if pc.any(pc.invert(pc.match_substring_regex(words, _NUMBER_CELL))).as_py():
                return True
    return False


def _check_texts(
    loaded: Splits, inputs: list[str], on_error: OnError
) -> tuple[Kept, tuple[SkippedRow, ...], str]:
    """Which rows are samples, which are not and why, and the sha256 of those that are."""
    hashes = [TextHash() for _ in inputs]
    kept: Kept = {}
    skipped: list[SkippedRow] = []
    for split, rows in loaded.items():
        for name in inputs:
            if name not in rows.column_names:
                raise DataError(
                    f"--data: split {split!r} has no column {name!r}, it has "
                    f"{rows.column_names!r}. Rename its column, or leave the split out."
                )
        bad = np.zeros(len(rows), dtype=bool)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            table = rows.select_columns(inputs)[start : start + _ROWS_AT_ONCE]
            texts = [as_texts(joined(table.column(name)), name) for name in inputs]
            blanks = [is_blank(column) for column in texts]
            wrong = np.logical_or.reduce(blanks)
            bad[start : start + len(wrong)] = wrong
            for row in np.flatnonzero(wrong).tolist():
                at = next(i for i, column in enumerate(blanks) if column[row])
                reason = _reason(inputs[at], value_at(table.column(inputs[at]), row))
                skipped.append(SkippedRow(split, start + row, reason))
            for text_hash, column in zip(hashes, texts, strict=True):
                text_hash.update(column.filter(pa.array(~wrong)))
        kept[split] = np.flatnonzero(~bad) if bad.any() else None
        if bad.all():
            raise BadRowError(f"--data: no row of split {split!r} has a text. Check the column.")
    if skipped and on_error == "fail":
        first, more = skipped[0], len(skipped) - 1
        raise BadRowError(
            f"--data: row {first.row} of split {first.split!r} (the first row is 0): "
            f"{first.reason}, needed text{f' ({more} more rows are like it)' if more else ''}. "
            "Correct it, or leave such rows out with --on-error skip."
        )
    return kept, tuple(skipped), "+".join(text_hash.hexdigest() for text_hash in hashes)


def _reason(name: str, value: object) -> str:
    if value is None:
        return f"column {name!r} is missing"
    if isinstance(value, str) and re.fullmatch(r"\s*", value):
        return f"column {name!r} is empty"
    return f"column {name!r} holds {value!r}"


def _read_targets(
    loaded: Splits, kept: Kept, columns: Columns, *, untyped: bool
) -> tuple[tuple[TargetData, ...], list[str]]:
    targets, notes = [], []
    for name in columns.targets:
        cells, absent = _target_cells(loaded, kept, name)
        if absent:
            notes.append(f"target {name!r}: not in {', '.join(absent)}, stored there as missing")
        target = read_target(name, cells, _class_names(loaded, name), untyped=untyped)
        num_rows = sum(len(column) for column in cells.values())
        if columns.is_left_over and len(target.spec.classes or ()) > num_rows / 2:
            notes.append(f"target {name!r}: left out, most of its values occur only once")
            continue
        notes.extend(target.notes)
        targets.append(target)
    return tuple(targets), notes


def _target_cells(
    loaded: Splits, kept: Kept, name: str
) -> tuple[dict[str, pa.ChunkedArray], list[str]]:
    """The column's cells of every sample; null in splits that lack it, which are named."""
    present = {s: r.select_columns([name])[:] for s, r in loaded.items() if name in r.column_names}
    kind = next(iter(present.values())).column(name).type
    cells = {}
    for split, rows in loaded.items():
        if split in present:
            column = present[split].column(name)
        else:
            column = pa.chunked_array([pa.nulls(len(rows), kind)])
        keep = kept[split]
        cells[split] = column if keep is None else column.take(pa.array(keep))
    return cells, [split for split in loaded if split not in present]


def _class_names(loaded: Splits, name: str) -> list[str] | None:
    """The names behind the codes of a ClassLabel column, or of a list of them."""
    found = {}
    for split, rows in loaded.items():
        feature = rows.features.get(name)
        names = getattr(getattr(feature, "feature", feature), "names", None)
        if names is not None:
            found[split] = list(names)
    if len({tuple(names) for names in found.values()}) > 1:
        raise DataError(
            f"--target: column {name!r} has other class names in each split: {found!r}, needed the "
            "same in all. Cast the splits to one ClassLabel."
        )
    return next(iter(found.values()), None)
