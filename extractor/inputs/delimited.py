"""Check a csv or tsv file before it is loaded, because loaders repair bad files silently.

pandas fills rows that are too short, drops stray quotes, and turns the words `null` and `NA` into
missing values. One pass with the csv module finds all of it and knows the line.
"""

from __future__ import annotations

import codecs
import csv
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import DataError

_SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True)
class DelimitedFile:
    """What a loader has to know about a csv or tsv file.

    Attributes:
        columns: Names in the header; an empty one is `Unnamed: <position>`, as pandas calls it.
        num_rows: Rows below the header.
        quoted: Whether a double quote at the start of a cell encloses it.
    """

    columns: tuple[str, ...]
    num_rows: int
    quoted: bool


def check_delimited(path: Path, delimiter: str) -> DelimitedFile:
    """Read a file once and check that every row has as many cells as the header.

    In tsv files quotes are often plain characters (as in GLUE's), so a tsv whose quotes do not
    pair up is read without quoting.

    Raises:
        DataError: It is empty, not UTF-8, has another separator, names a column twice, or a row
            does not fit; says where.
    """
    try:
        return _scan(path, delimiter, quoted=True)
    except DataError:
        if delimiter != "\t":
            raise
        return _scan(path, delimiter, quoted=False)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: is not UTF-8 (byte {error.object[error.start]:#04x}: {error.reason}). "
            f"Convert it: iconv -f {_encoding(path)} -t utf-8 {path} "
            f"> {path.stem}.utf8{path.suffix}"
        ) from error


def _scan(path: Path, delimiter: str, *, quoted: bool) -> DelimitedFile:
    with path.open(encoding="utf-8-sig", newline="") as file, _unlimited_cells():
        reader = csv.reader(
            file,
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            strict=True,
        )
        try:
            columns = _columns(path, next(reader, []), delimiter)
            num_rows = 0
            for row in reader:
                # A blank line is an empty cell where there is one column, and no row elsewhere.
                if row or len(columns) == 1:
                    num_rows += 1
                    if row and len(row) != len(columns):
                        raise DataError(
                            f"{path}: line {reader.line_num} has {len(row)} cells, the header has "
                            f"{len(columns)}. Correct the line; cells with a {delimiter!r} need "
                            "double quotes."
                        )
        except csv.Error as error:
            raise DataError(
                f"{path}: line {reader.line_num} cannot be read ({error}). Close every double "
                "quote, and write two of them for one inside a quoted cell."
            ) from error
    if num_rows == 0:
        raise DataError(f"{path}: has a header but no rows, needed at least one.")
    return DelimitedFile(columns, num_rows, quoted)


def _columns(path: Path, header: list[str], delimiter: str) -> tuple[str, ...]:
    if not header:
        raise DataError(f"{path}: is empty, needed a line of column names and rows below it.")
    other = next((mark for mark in _SEPARATORS if len(header) == 1 and mark in header[0]), None)
    if other is not None:
        raise DataError(
            f"{path}: seems to be separated by {_SEPARATORS[other]}, its only column is "
            f"{header[0]!r}, needed {_SEPARATORS[delimiter]}. Save it as csv with commas or as tsv "
            "with tabs; a file of one column needs another name for it."
        )
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise DataError(f"{path}: the header names {twice!r} twice. Rename one of the columns.")
    return tuple(name or f"Unnamed: {position}" for position, name in enumerate(header))


def _encoding(path: Path) -> str:
    """What a file that is not UTF-8 is, as far as its first bytes tell."""
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in _UTF16_MARKS else "latin1"


@contextmanager
def _unlimited_cells() -> Iterator[None]:
    limit = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(limit)
