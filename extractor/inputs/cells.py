"""What the cells of a column look like: texts, lists of texts, images, videos or regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import datasets
import pyarrow as pa
import pyarrow.compute as pc

from .errors import BadRowError
from .folders import suffixes
from .texts import as_texts, is_list, joined

# Rows from which to tell words from numbers in an untyped column.
_ROWS_TO_TELL = 1000
_NUMBER_CELL = r"^\s*([+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)?\s*$"


MediaRole = Literal["image", "video", "regions"]
MEDIA_ROLES: tuple[MediaRole, ...] = get_args(MediaRole)


@dataclass(frozen=True)
class ColumnFacts:
    """What a column may be, judged by its type and its first rows.

    Attributes:
        is_text: Strings, not all of which are numbers.
        is_text_list: Lists of such strings.
        media: `image`, `video` or `regions` where the cells are encoded ones, or paths that end
            like them; a list of images is a `video`, and bytes alone pass for an `image`.
        is_encoded: Whether the cells hold the bytes themselves.
    """

    is_text: bool = False
    is_text_list: bool = False
    media: MediaRole | None = None
    is_encoded: bool = False

    @property
    def is_media(self) -> bool:
        """Whether it holds images, videos or regions, whoever reads them."""
        return self.media is not None

    def could_be(self, role: str) -> bool:
        """Whether a column whose name says so could hold images, videos or regions."""
        if self.media is not None or self.is_encoded:
            return self.media == role
        return self.is_text or (role == "video" and self.is_text_list)


def column_facts(loaded: Mapping[str, datasets.Dataset], name: str) -> ColumnFacts:
    """Look at a column's type and at its first rows in the first split that has any.

    Args:
        loaded: Splits, in arrow format.
        name: The column.
    """
    for rows in loaded.values():
        if name not in rows.column_names:
            continue
        kind = rows.features.arrow_schema.field(name).type
        # Encoded images are told by their type: a thousand of them may be a gigabyte.
        if holds_bytes(kind):
            is_video = is_list(kind) or isinstance(rows.features.get(name), datasets.Video)
            return ColumnFacts(media="video" if is_video else "image", is_encoded=True)
        column = joined(rows.select_columns([name])[:_ROWS_TO_TELL].column(name))
        if is_list(column.type):
            facts = _facts(column.flatten())
            is_video = facts.media == "image"
            found = (
                ColumnFacts(media="video") if is_video else ColumnFacts(is_text_list=facts.is_text)
            )
        else:
            found = _facts(column)
        if found != ColumnFacts():
            return found
    return ColumnFacts()


def is_encoded(kind: pa.DataType) -> bool:
    """Whether cells of this type are bytes of a file, or a struct of those and its path."""
    if pa.types.is_struct(kind):
        return {"bytes", "path"} <= {field.name for field in kind}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether cells of this type are encoded, or lists of encoded images."""
    return holds_bytes(kind.value_type) if is_list(kind) else is_encoded(kind)


def _facts(column: pa.Array) -> ColumnFacts:
    try:
        words = as_texts(column, "")
    except BadRowError:
        return ColumnFacts()
    is_text = bool(pc.any(pc.invert(pc.match_substring_regex(words, _NUMBER_CELL))).as_py())
    return ColumnFacts(is_text=is_text, media=_media_paths(words) if is_text else None)


def _media_paths(words: pa.LargeStringArray) -> MediaRole | None:
    """What most of the cells are paths of."""
    filled = [word.lower() for word in words.drop_null().to_pylist() if word.strip()]
    for role in MEDIA_ROLES:
        if sum(word.endswith(suffixes(role)) for word in filled) * 2 > len(filled):
            return role
    return None
