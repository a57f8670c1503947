"""Open a data set: choose columns, check every row, read the targets, fingerprint the samples."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import JsonValue

from .cells import column_facts
from .columns import Columns, choose_columns
from .config import DataConfig
from .errors import BadRowError, DataError
from .folders import unread_files
from .groups import merge_repeated
from .loading import load_splits
from .locate import Location, hub_commit, locate
from .rows import CheckedRows, Rows, check_rows
from .source import SampleSource
from .targets import TargetData, read_key, read_target
from .texts import is_list, list_lengths

Splits = Mapping[str, datasets.Dataset]


@dataclass(frozen=True, eq=False)
class _Opened:
    """The rows of every split, in arrow format, and which of their columns are read."""

    loaded: dict[str, datasets.Dataset]
    places: list[Location]
    columns: Columns
    roots: dict[str, Path | None]

    def check(self, config: DataConfig) -> CheckedRows:
        return check_rows(
            self.loaded,
            self.columns.inputs,
            self.roots,
            config.on_error,
            lists_hold_words=config.lists_hold_words,
        )


def open_data(config: DataConfig) -> SampleSource:
    """Open a data set for reading.

    Raises:
        DataError: The data is not there, cannot be read, lacks a column or a split, or has a row
            without a usable input while `on_error` is `fail`.
    """
    opened = _open(config)
    found = opened.check(config)
    rows, media = found.splits, found.media
    targets, notes = _read_targets(opened, rows)
    if media is not None:
        _refuse_missing(config, media.missing, media.paths)
        if config.unique and config.reads in (("image",), ("video",)):
            merged = merge_repeated(config.reads[0], media, rows, targets)
            rows, targets = merged.splits, merged.targets
            notes += merged.notes
    splits = {
        s: len(t) if (k := rows[s].rows) is None else len(k) for s, t in opened.loaded.items()
    }
    identity: dict[str, JsonValue] = {
        "splits": dict(splits),
        **({"texts": found.texts} if found.texts else {}),
        "targets": {target.spec.name: target.digest() for target in targets},
        "skipped_rows": len(found.skipped),
        **_row_identity(rows),
    }
    inputs = opened.columns.inputs
    names = list(dict.fromkeys(inputs.values()))
    return SampleSource(
        splits=splits,
        inputs=inputs,
        targets=targets,
        notes=(*_stale(opened.places), *_unread(opened), *opened.columns.notes, *notes),
        rows_identity=identity,
        skipped=found.skipped,
        tables={split: table.select_columns(names) for split, table in opened.loaded.items()},
        rows=rows,
        roots=opened.roots,
        media=media,
    )


def media_stamp(config: DataConfig) -> str:
    """sha256 of path, size and time of change of every file that a row names as its input."""
    media = _open(config).check(config.model_copy(update={"on_error": "skip"})).media
    assert media is not None
    return media.stamp()


def _open(config: DataConfig) -> _Opened:
    loaded = {split: rows.with_format("arrow") for split, rows in load_splits(config).items()}
    places = locate(config)
    names = list(dict.fromkeys(c for rows in loaded.values() for c in rows.column_names))
    columns = choose_columns(config, names, {name: column_facts(loaded, name) for name in names})
    if config.media_root is not None:
        root = Path(config.media_root).expanduser().absolute()
        if not root.is_dir():
            raise DataError(f"--media-root: there is no folder {str(root)!r}. Check the path.")
        return _Opened(loaded, places, columns, dict.fromkeys(loaded, root))
    roots = {place.split: place.root for place in places}
    return _Opened(loaded, places, columns, {split: roots.get(split) for split in loaded})


def _stale(places: list[Location]) -> list[str]:
    return [
        f"{place.hub_id}: the hub cannot be reached, so the local copy is read as it is"
        for place in places
        if place.hub_id is not None and hub_commit(place.hub_id) is None
    ]


def _unread(opened: _Opened) -> list[str]:
    """What lies in folders of images or videos and is none, to go by its name."""
    found = (
        unread_files(place.paths[0], place.media)
        for place in opened.places
        if place.media is not None and place.split in opened.loaded
    )
    return [note for note in found if note is not None]


def _refuse_missing(config: DataConfig, missing: frozenset[str], paths: list[str]) -> None:
    """Where no file at all is found the data is not unreadable, it is elsewhere."""
    if paths and len(missing) == len(paths):
        there = "the folder of the data file" if config.media_root is None else "--media-root"
        raise BadRowError(
            f"--data: none of its {len(paths):,} {config.reads[0]} files is there; the first would "
            f"be {paths[0]}. Relative paths are looked up in {there}: name their folder with "
            "--media-root."
        )


def _row_identity(splits: Mapping[str, Rows]) -> dict[str, JsonValue]:
    """Which rows the samples come from, where that is not told by what was skipped."""
    if all(rows.parts is None and not rows.is_merged for rows in splits.values()):
        return {}
    hasher = hashlib.sha256()
    for split, rows in splits.items():
        hasher.update(split.encode())
        for column in (rows.rows, rows.parts):
            hasher.update(b"-" if column is None else column.astype("<i8").tobytes())
    return {"rows": hasher.hexdigest()}


def _read_targets(
    opened: _Opened, rows: Mapping[str, Rows]
) -> tuple[tuple[TargetData, ...], list[str]]:
    targets: list[TargetData] = []
    notes: list[str] = []
    untyped = {place.split for place in opened.places if place.kind in ("csv", "tsv")}
    for name in (*opened.columns.targets, *opened.columns.keys):
        is_key = name in opened.columns.keys
        cells, absent = _target_cells(opened.loaded, rows, name, is_key=is_key)
        kind = "key" if is_key else "target"
        if absent:
            notes.append(f"{kind} {name!r}: not in {', '.join(absent)}, stored there as missing")
        if is_key:
            targets.append(read_key(name, cells))
            continue
        target = read_target(
            name, cells, _class_names(opened.loaded, name), untyped={*untyped, *absent}
        )
        num_rows = sum(len(column) for column in cells.values())
        if opened.columns.is_left_over and len(target.spec.classes or ()) > num_rows / 2:
            notes.append(f"target {name!r}: left out, most of its values occur only once")
            continue
        notes.extend(target.notes)
        targets.append(target)
    return tuple(targets), notes


def _target_cells(
    loaded: Splits, rows: Mapping[str, Rows], name: str, *, is_key: bool
) -> tuple[dict[str, pa.ChunkedArray], list[str]]:
    """The column's cells of every sample; null in splits that lack it, which are named."""
    present = {s: r.select_columns([name])[:] for s, r in loaded.items() if name in r.column_names}
    kind = next(iter(present.values())).column(name).type
    cells = {}
    for split, table in loaded.items():
        if split in present:
            column = present[split].column(name)
        else:
            column = pa.chunked_array([pa.nulls(len(table), kind)])
        chosen = rows[split]
        if is_key and is_list(column.type) and chosen.parts is not None:
            column = _names_of_texts(column, chosen, split, name)
        elif chosen.rows is not None:
            column = column.take(pa.array(chosen.rows))
        cells[split] = column
    return cells, [split for split in loaded if split not in present]


def _names_of_texts(column: pa.ChunkedArray, rows: Rows, split: str, name: str) -> pa.ChunkedArray:
    """The name of each text from lists of names beside the lists of texts."""
    lists = column.combine_chunks()
    lists = lists.chunk(0) if isinstance(lists, pa.ChunkedArray) else lists
    lengths = list_lengths(lists)
    assert rows.parts is not None
    sources = np.arange(len(lists)) if rows.rows is None else rows.rows
    short = np.flatnonzero(lengths[sources] <= rows.parts)
    if len(short):
        row = int(sources[short[0]])
        raise DataError(
            f"--key: row {row} of split {split!r} has {lengths[row]} entries in {name!r} and more "
            "texts, needed one for each. Correct the row, or choose another column."
        )
    places = (np.cumsum(lengths) - lengths)[sources] + rows.parts
    return pa.chunked_array([pc.take(lists.flatten(), pa.array(places))])


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
