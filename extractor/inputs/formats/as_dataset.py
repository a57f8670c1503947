"""A table of a data set as the rest of the inputs read it; here alone `datasets` is needed."""

from __future__ import annotations

import datasets

from .table import Table

_LISTS = {
    "scores": datasets.Value("float64"),
    "box": datasets.Value("float64"),
    "size": datasets.Value("float64"),
    "spans": datasets.Value("int64"),
}


def as_dataset(table: Table) -> datasets.Dataset:
    """The same rows, with types that do not depend on what they hold: also for empty lists."""
    features = {name: _feature(table, name) for name in table.columns}
    return datasets.Dataset.from_dict(dict(table.columns), features=datasets.Features(features))


def _feature(table: Table, name: str) -> object:
    if name in table.classes:
        return datasets.List(datasets.ClassLabel(names=[*table.classes[name]]))
    if name in _LISTS:
        return datasets.List(_LISTS[name])
    text = datasets.Value("string")
    is_grouped = isinstance(next(iter(table.columns[name]), None), list)
    return datasets.List(text) if is_grouped else text
