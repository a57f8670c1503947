"""Rows to a parquet, csv or jsonl file that appears whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

Row = dict[str, Any]
WriteRows = Callable[[list[Row]], object]

_ROWS_AT_ONCE = 4096


@contextmanager
def row_writer(path: Path) -> Iterator[Callable[[Row], None]]:
    """Give a function that takes one row after the other; all rows have the same columns.

    Raises:
        UserError: `path` is a folder, its ending is not known, or its folder does not exist.
    """
    open_writer = _writer_for(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    rows: list[Row] = []
    try:
        with open_writer(partial) as write_rows:

            def write(row: Row) -> None:
                rows.append(row)
                if len(rows) == _ROWS_AT_ONCE:
                    write_rows(rows)
                    rows.clear()

            yield write
            write_rows(rows)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _writer_for(path: Path) -> Callable[[Path], AbstractContextManager[WriteRows]]:
    from cache_schema import UserError

    kinds = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
    if path.is_dir():
        raise UserError(f"--out {path}: is a folder, needed a file in it: {path / 'rows.parquet'}.")
    if path.suffix not in kinds:
        raise UserError(f"--out {path}: ends in {path.suffix!r}, needed one of {sorted(kinds)}.")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: there is no folder {path.parent}. Make it first.")
    return kinds[path.suffix]


@contextmanager
def _csv(path: Path) -> Iterator[WriteRows]:
    """Cells that hold lists are JSON."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        header: list[str] = []

        def write(rows: list[Row]) -> None:
            if not header and rows:
                header.extend(rows[0])
                writer.writerow(header)
            for row in rows:
                cells = (row[name] for name in header)
                writer.writerow(json.dumps(c) if isinstance(c, list) else c for c in cells)

        yield write


@contextmanager
def _jsonl(path: Path) -> Iterator[WriteRows]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda rows: file.writelines(f"{json.dumps(row)}\n" for row in rows)


@contextmanager
def _parquet(path: Path) -> Iterator[WriteRows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts: list[pa.Table] = []
    yield lambda rows: parts.append(pa.Table.from_pylist(rows))
    # Together at the end: a first part of empty lists would not tell what lists hold.
    pq.write_table(pa.concat_tables(parts, promote_options="permissive"), path)
