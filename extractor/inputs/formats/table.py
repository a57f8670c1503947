"""What a reader of a data set gives: where its splits lie, and their rows by column.

Columns of a table, each a list with one value per row:
    image, video                    absolute path
    text                            the text, or the list of texts that belong to the row
    image_id, video_id, question_id, sentence_id
                                    strings; a list where `text` is one
    answers, scores                 list of class codes (into `Table.classes`), list of numbers
    box                             [x, y, width, height] in pixels of the image file
    size                            [height, width] of the image file in pixels
    spans                           [begin, end, begin, end, ...] offsets of characters in `text`
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Table:
    """The rows of one split.

    Attributes:
        columns: Name to one value per row.
        classes: Names behind the codes of a column of class codes.
    """

    columns: Mapping[str, list[Any]]
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))


@dataclass(frozen=True)
class FormatSource:
    """A data set whose files were found.

    Attributes:
        files: Split to the files that its rows come from.
        read: Give it the splits to read, and it gives their tables.
    """

    files: Mapping[str, tuple[Path, ...]]
    read: Callable[[frozenset[str]], dict[str, Table]]

    def all_files(self) -> tuple[Path, ...]:
        """Every file once."""
        return tuple(dict.fromkeys(f for files in self.files.values() for f in files))
