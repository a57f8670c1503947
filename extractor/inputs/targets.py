"""Target columns as arrays: what kind each is, decided over all splits together."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cache_schema import Ragged, TargetSpec

from .errors import DataError

_INTEGER = re.compile(r"[+-]?(0|[1-9]\d{0,17})")
# Digits after a leading zero are a code, such as a postal one, not a quantity.
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_BOOLEANS = {"false": False, "true": True}
_MISSING = frozenset({"", "nan", "na", "n/a", "null", "none"})
# Whole numbers with gaps are codes of classes when they are few, quantities when they are many.
_MAX_GAPPED_CLASSES = 100
_EXACT = 2**53  # below it float64 holds every whole number


@dataclass(frozen=True, eq=False)
class TargetData:
    """One target column of every split.

    Attributes:
        spec: Name, kind and classes, as a manifest has them.
        values: Split to (rows,) int64 or float64; for ragged kinds all entries, joined: int64,
            float64, or uint8 for strings.
        offsets: For ragged kinds, split to (rows + 1,) int64; else None.
        notes: What was decided that the user might not expect.
    """

    spec: TargetSpec
    values: Mapping[str, np.ndarray]
    offsets: Mapping[str, np.ndarray] | None = None
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        """sha256 of kind, classes and every value."""
        hasher = hashlib.sha256(self.spec.model_dump_json().encode())
        for split, values in self.values.items():
            hasher.update(f"{split} {len(values)}".encode())
            hasher.update(values.tobytes())
            if self.offsets is not None:
                hasher.update(self.offsets[split].tobytes())
        return hasher.hexdigest()

    def take(self, positions: Mapping[str, np.ndarray]) -> TargetData:
        """Of these samples of each split only."""
        if self.offsets is None:
            return replace(self, values={s: v[positions[s]] for s, v in self.values.items()})
        taken = {s: Ragged(v, self.offsets[s]).take(positions[s]) for s, v in self.values.items()}
        return replace(
            self,
            values={s: column.values for s, column in taken.items()},
            offsets={s: column.offsets for s, column in taken.items()},
        )

    def differs(self, split: str, first: np.ndarray) -> bool:
        """Whether some sample of a split has another value than the sample `first` names for it."""
        values = self.values[split]
        if self.offsets is None:
            return bool(values.tobytes() != values[first].tobytes())
        mine = Ragged(values, self.offsets[split])
        theirs = mine.take(first)
        return bool(
            (mine.offsets != theirs.offsets).any()
            or mine.values.tobytes() != theirs.values.tobytes()
        )


def read_key(name: str, columns: Mapping[str, pa.ChunkedArray]) -> TargetData:
    """A column of names as they are: strings, or whole numbers; empty where one is missing.

    Raises:
        DataError: The column holds something else.
    """
    values, offsets = {}, {}
    for split, column in columns.items():
        if _kind(column.type) not in ("string", "integer", "nothing"):
            raise DataError(
                f"--key: column {name!r} holds {str(column.type)!r}, needed strings or whole "
                "numbers, one for each sample. Choose another column."
            )
        words = pc.fill_null(column.cast(pa.large_string()), "")
        merged = words.combine_chunks() if words.num_chunks != 1 else words.chunk(0)
        _, starts, content = merged.buffers()
        ends = np.frombuffer(starts, dtype=np.int64)[merged.offset :][: len(merged) + 1]
        joined = np.frombuffer(content or b"", dtype=np.uint8)[ends[0] : ends[-1]]
        values[split], offsets[split] = joined.copy(), ends - ends[0]
    return TargetData(TargetSpec(name=name, kind="string"), values, offsets)


def read_target(
    name: str,
    columns: Mapping[str, pa.ChunkedArray],
    class_names: Sequence[str] | None,
    *,
    untyped: Collection[str | None],
) -> TargetData:
    """Turn one column into numbers.

    Args:
        name: The column.
        columns: Split to its rows.
        class_names: Names behind integer codes, where the data set has them.
        untyped: Splits whose cells are strings that may stand for numbers: of csv or tsv files,
            and of those without the column.

    Raises:
        DataError: The column holds something that is no kind of target.
    """
    strings = {s: column for s, column in columns.items() if _kind(column.type) == "string"}
    # Beside strings or codes of classes a cell of a csv file is a word, whatever it looks like.
    if class_names is None and strings.keys() <= set(untyped):
        columns = {**columns, **_typed(strings)}
    kinds = {_kind(column.type) for column in columns.values()} - {"nothing"}
    if len(kinds) > 1 and kinds != {"integer", "number"}:
        found = {split: str(column.type) for split, column in columns.items()}
        raise DataError(
            f"--target: column {name!r} is {found!r}, needed one type. Convert one of them."
        )
    kind = "number" if len(kinds) > 1 else (kinds or {"number"}).pop()
    try:
        return _read_kind(kind, name, columns, class_names)
    except pa.ArrowInvalid as error:
        raise DataError(
            f"--target: column {name!r} has numbers too large for int64 or float64 ({error}). "
            f"Keep it as a name with --key {name}, or leave it out: choose others with --target."
        ) from error


def _read_kind(
    kind: str,
    name: str,
    columns: Mapping[str, pa.ChunkedArray],
    class_names: Sequence[str] | None,
) -> TargetData:
    if kind == "other":
        types = sorted({str(column.type) for column in columns.values()})
        raise DataError(
            f"--target: column {name!r} holds {types!r}, needed strings, numbers or lists of them. "
            "Choose another column or convert it."
        )
    if kind in ("strings", "numbers"):
        return _read_lists(name, columns, class_names, of_strings=kind == "strings")
    if kind in ("string", "boolean"):
        return _read_strings(name, columns)
    if class_names is not None:
        return _category(name, columns, [*class_names])
    if kind == "integer":
        return _read_integers(name, columns)
    return _read_numbers(name, {s: c.cast(pa.float64()).to_numpy() for s, c in columns.items()})


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_null(kind):
        return "nothing"
    if _is_string(kind):
        return "string"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return {"string": "strings", "integer": "numbers", "number": "numbers"}.get(
            _kind(kind.value_type), "other"
        )
    return "other"


def _is_string(kind: pa.DataType) -> bool:
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _typed(columns: Mapping[str, pa.ChunkedArray]) -> dict[str, pa.ChunkedArray]:
    """Cells of csv files as what all of them look like, over all splits; empty ones are null."""
    encoded = {s: _encode(c.cast(pa.large_string())) for s, c in columns.items()}
    words = {word for _, dictionary in encoded.values() for word in dictionary}
    filled = {word for word in words if word.strip().lower() not in _MISSING}
    kind: pa.DataType
    meaning: Mapping[str, object]
    if not words - {""}:
        kind, meaning = pa.null(), {}
    elif filled and all(_INTEGER.fullmatch(word.strip()) for word in filled):
        kind, meaning = pa.int64(), {word: int(word) for word in filled}
    elif filled and all(_NUMBER.fullmatch(word.strip()) for word in filled):
        kind, meaning = pa.float64(), {word: float(word) for word in filled}
    elif filled and all(word.strip().lower() in _BOOLEANS for word in filled):
        kind, meaning = pa.bool_(), {word: _BOOLEANS[word.strip().lower()] for word in filled}
    else:
        return dict(columns)
    return {
        split: pa.chunked_array(
            [pa.array(map(meaning.get, dictionary), kind).take(pa.array(codes, mask=codes < 0))]
        )
        for split, (codes, dictionary) in encoded.items()
    }


def _read_strings(name: str, columns: Mapping[str, pa.ChunkedArray]) -> TargetData:
    encoded = {s: _encode(c.cast(pa.large_string())) for s, c in columns.items()}
    words = {word for _, dictionary in encoded.values() for word in dictionary}
    return _named_category(name, encoded, words - {""})


def _encode(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Codes (-1 where null) and the words they stand for."""
    merged = pc.dictionary_encode(column).combine_chunks()
    if isinstance(merged, pa.ChunkedArray):
        merged = merged.chunk(0)
    codes = merged.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, merged.dictionary.to_pylist()


def _named_category(
    name: str,
    encoded: Mapping[str, tuple[np.ndarray, list[str]]],
    words: set[str],
) -> TargetData:
    """Codes into the sorted words; -1 where there is none of them."""
    numeric = all(_INTEGER.fullmatch(word.strip()) for word in words)
    classes = sorted(words, key=int if numeric else None)
    code_of = {word: code for code, word in enumerate(classes)}
    # Position -1 of the table is where a null (code -1) looks itself up.
    values = {
        s: np.array([*(code_of.get(word, -1) for word in dictionary), -1])[codes]
        for s, (codes, dictionary) in encoded.items()
    }
    spec = TargetSpec(name=name, kind="category", classes=tuple(classes))
    return TargetData(spec, values)


def _read_integers(name: str, columns: Mapping[str, pa.ChunkedArray]) -> TargetData:
    if not any(column.null_count for column in columns.values()):
        numbers = {s: c.cast(pa.int64()).to_numpy() for s, c in columns.items()}
        return TargetData(TargetSpec(name=name, kind="integer"), numbers)
    encoded = {s: _encode(c.cast(pa.int64()).cast(pa.large_string())) for s, c in columns.items()}
    words = {word for _, dictionary in encoded.values() for word in dictionary}
    if len(words) <= _MAX_GAPPED_CLASSES:
        return _gapped(_named_category(name, encoded, words))
    values = {s: _nans(c.cast(pa.float64()).to_numpy()) for s, c in columns.items()}
    return TargetData(TargetSpec(name=name, kind="number"), values)


def _read_numbers(name: str, values: Mapping[str, np.ndarray]) -> TargetData:
    """Whole numbers are integers however they are written: one gap makes pandas write 1 as 1.0."""
    present = np.concatenate([v[~np.isnan(v)] for v in values.values()])
    distinct = np.unique(present)
    is_whole = (np.abs(distinct) < _EXACT) & (distinct == np.rint(distinct))
    if len(distinct) and is_whole.all():
        if len(present) == sum(map(len, values.values())):
            numbers = {s: v.astype(np.int64) for s, v in values.items()}
            return TargetData(TargetSpec(name=name, kind="integer"), numbers)
        if len(distinct) <= _MAX_GAPPED_CLASSES:
            codes = {
                s: np.where(np.isnan(v), -1, np.searchsorted(distinct, v))
                for s, v in values.items()
            }
            classes = tuple(str(number) for number in distinct.astype(np.int64).tolist())
            spec = TargetSpec(name=name, kind="category", classes=classes)
            return _gapped(TargetData(spec, codes))
    return TargetData(
        TargetSpec(name=name, kind="number"), {s: _nans(v) for s, v in values.items()}
    )


def _gapped(target: TargetData) -> TargetData:
    num_missing = sum(int((values < 0).sum()) for values in target.values.values())
    note = (
        f"target {target.spec.name!r}: {num_missing} rows have none; the "
        f"{len(target.spec.classes or ())} whole numbers of the others are taken as classes"
    )
    return TargetData(target.spec, target.values, notes=(note,))


def _category(
    name: str, columns: Mapping[str, pa.ChunkedArray], classes: Sequence[str]
) -> TargetData:
    values = {s: c.fill_null(-1).cast(pa.int64()).to_numpy() for s, c in columns.items()}
    return TargetData(TargetSpec(name=name, kind="category", classes=tuple(classes)), values)


def _read_lists(
    name: str,
    columns: Mapping[str, pa.ChunkedArray],
    class_names: Sequence[str] | None,
    *,
    of_strings: bool,
) -> TargetData:
    flat = {s: pc.list_flatten(c) for s, c in columns.items()}
    offsets = {
        s: _ends(pc.list_value_length(c).fill_null(0).to_numpy()) for s, c in columns.items()
    }
    if of_strings:
        encoded = {s: _encode(c.cast(pa.large_string())) for s, c in flat.items()}
        words = {word for _, dictionary in encoded.values() for word in dictionary}
        joined = _named_category(name, encoded, words)
    elif class_names is not None:
        joined = _category(name, flat, class_names)
    else:
        numbers = {s: _nans(c.cast(pa.float64()).to_numpy()) for s, c in flat.items()}
        return TargetData(TargetSpec(name=name, kind="numbers"), numbers, offsets)
    codes = {}
    for split, column in columns.items():
        # A list that is missing is one missing category: an empty one says that none applies.
        absent = column.is_null().to_numpy()
        codes[split] = np.insert(joined.values[split], offsets[split][:-1][absent], -1)
        offsets[split] = _ends(np.diff(offsets[split]) + absent)
    spec = joined.spec.model_copy(update={"kind": "categories"})
    return TargetData(spec, codes, offsets)


def _ends(lengths: np.ndarray) -> np.ndarray:
    """(rows + 1,) int64: where the entries of each row begin, and the end."""
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _nans(values: np.ndarray) -> np.ndarray:
    """One bit pattern for every NaN, so that equal columns have equal digests."""
    return np.where(np.isnan(values), np.nan, values)
