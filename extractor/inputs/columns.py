"""Which columns are the text, its pair and the targets, where the user does not say.

A guess is made only from names that mean one thing, or where one column is left; anything else is
an error that lists the columns. Every guess is reported in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .config import DataConfig
from .errors import MissingColumnError

# Titles, questions and the like are no texts by name alone: another column may be the one meant.
_TEXT_NAMES = (
    "text", "sentence", "review", "review_text", "content", "body", "document", "tweet",
    "utterance",
)  # fmt: skip
_PAIR_NAMES = (
    ("text", "text_pair"), ("text1", "text2"), ("text_1", "text_2"), ("text_a", "text_b"),
    ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b"),
    ("question1", "question2"), ("premise", "hypothesis"), ("question", "sentence"),
    ("question", "context"), ("query", "passage"),
)  # fmt: skip
_TARGET_NAMES = (
    "label", "labels", "target", "targets", "class", "category", "sentiment", "topic", "intent",
    "emotion", "score", "rating", "stars", "label_name", "label_text",
)  # fmt: skip
_ID_NAMES = ("id", "idx", "index", "row", "row_id", "uid", "uuid", "guid", "unnamed: 0")


@dataclass(frozen=True)
class Columns:
    """The columns to read.

    Attributes:
        text: Of the text.
        text_pair: Of the second text of a pair, or None.
        targets: To keep beside the hidden states.
        notes: In words, how those were found that the user did not name.
        is_left_over: Whether the target was guessed only because no other column is left.
    """

    text: str
    text_pair: str | None
    targets: tuple[str, ...]
    notes: tuple[str, ...] = ()
    is_left_over: bool = False


def choose_columns(
    config: DataConfig, columns: Sequence[str], textual: Mapping[str, bool]
) -> Columns:
    """Take the columns that the user named and guess the others.

    Args:
        config: What the user said.
        columns: All columns of any split, in order.
        textual: Whether each could be a text: strings that are not all numbers.

    Raises:
        MissingColumnError: A named column is not there, or the text column cannot be guessed.
    """
    for flag, name in [
        ("--text-column", config.text_column),
        ("--text-pair-column", config.text_pair_column),
        *(("--target", target) for target in config.targets),
    ]:
        if name is not None and name not in columns:
            raise MissingColumnError(
                f"{flag}: there is no column {name!r}, the data has {list(columns)!r}. "
                f"Choose one of those.{_separator_hint(columns)}"
            )
    text, pair, notes = _texts(config, columns, textual)
    if config.targets or not config.guess_targets:
        return Columns(text, pair, config.targets, tuple(notes))
    left = [c for c in columns if c not in (text, pair) and not _is_id(c)]
    named = tuple(c for c in left if _is_target(c))
    if named:
        return Columns(text, pair, named, (*notes, f"targets: {_quoted(named)}, by name"))
    if len(left) == 1:
        note = f"target: column {left[0]!r}, the only one left"
        return Columns(text, pair, (left[0],), (*notes, note), is_left_over=True)
    found = f"none of {_quoted(left)} is named like one" if left else "there is no other column"
    return Columns(text, pair, (), (*notes, f"no target: {found}"))


def _texts(
    config: DataConfig, columns: Sequence[str], textual: Mapping[str, bool]
) -> tuple[str, str | None, list[str]]:
    if config.text_column is not None:
        return config.text_column, config.text_pair_column, []
    free = [c for c in columns if c not in (*config.targets, config.text_pair_column)]
    by_name = {c.strip().lower(): c for c in free}
    if config.text_pair_column is None:
        for first, second in _PAIR_NAMES:
            if first in by_name and second in by_name:
                text, pair = by_name[first], by_name[second]
                return text, pair, [f"text pairs: columns {text!r} and {pair!r}, by their names"]
    named = [by_name[name] for name in _TEXT_NAMES if name in by_name and textual[by_name[name]]]
    left = [c for c in free if textual[c] and not _is_id(c) and not _is_target(c)]
    if len(named) == 1 or (named and named[0].strip().lower() == "text"):
        return named[0], config.text_pair_column, [f"text: column {named[0]!r}, by its name"]
    if not named and len(left) == 1:
        note = f"text: column {left[0]!r}, the only one with texts"
        return left[0], config.text_pair_column, [note]
    found = f"{named or left!r} could all be it" if named or left else "none looks like text"
    raise MissingColumnError(
        f"--data: which column is the text cannot be told, {found} among {list(columns)!r}. "
        f"Say it with --text-column.{_separator_hint(columns)}"
    )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _is_target(column: str) -> bool:
    return column.strip().lower() in _TARGET_NAMES


def _is_id(column: str) -> bool:
    name = column.strip().lower()
    return name in _ID_NAMES or name.endswith("_id") or name.startswith("__index")


def _separator_hint(columns: Sequence[str]) -> str:
    for mark, kind in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if len(columns) == 1 and mark in columns[0]:
            return (
                f" The file seems to be separated by {kind}: commas (csv) or tabs (tsv) are read."
            )
    return ""
