"""Labels of a target column, one or several per sample, as flat arrays.

n samples, m labels of all of them together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cache_schema import Ragged

if TYPE_CHECKING:
    from cache_schema import FeatureCache, TargetColumn

MISSING = -1  # cache_schema.TargetSpec: code of a missing category


@dataclass(frozen=True)
class Labels:
    """The labels of some samples.

    Attributes:
        codes: (m,) int64, as stored, without missing ones.
        positions: (m,) int64, which of the n samples each code belongs to.
        missing: (n,) bool: samples whose labels are not known; an empty list is none.
    """

    codes: np.ndarray
    positions: np.ndarray
    missing: np.ndarray

    @classmethod
    def of(cls, column: TargetColumn, samples: np.ndarray) -> Labels:
        """The labels of these samples in a column of category, categories or integer."""
        positions = np.arange(len(samples))
        if column.offsets is None:
            codes = column.values[samples]
        else:
            labels = Ragged(column.values, column.offsets).take(samples)
            positions = np.repeat(positions, labels.lengths)
            codes = labels.values
        # An integer target may well be -1; only categories have a code for "missing".
        present = np.ones(len(codes), bool) if column.spec.classes is None else codes != MISSING
        kept, given = (
            np.bincount(p, minlength=len(samples)) for p in (positions[present], positions)
        )
        return cls(codes[present], positions[present], (kept == 0) & (given > 0))

    @property
    def distinct(self) -> np.ndarray:
        """Sorted distinct codes."""
        return np.unique(self.codes)

    def having_other_than(self, codes: np.ndarray) -> np.ndarray:
        """(n,) bool: samples with a label that is not among `codes`."""
        strange = ~np.isin(self.codes, codes)
        return np.bincount(self.positions[strange], minlength=len(self.missing)) > 0


def label_column(cache: FeatureCache, target: str) -> TargetColumn:
    """A target column; lists of whole numbers as lists of the classes that they number.

    Raises:
        CacheError: There is no such column.
    """
    column = cache.target(target)
    values = column.values
    if column.spec.kind != "numbers" or not (np.isnan(values) | (values == np.rint(values))).all():
        return column
    numbers = np.unique(values[np.isfinite(values)])
    codes = np.where(np.isfinite(values), np.searchsorted(numbers, values), MISSING)
    classes = tuple(f"{number:.0f}" for number in numbers.tolist())
    spec = column.spec.model_copy(update={"kind": "categories", "classes": classes})
    return replace(column, spec=spec, values=codes)


def label_names(column: TargetColumn, codes: np.ndarray) -> list[str]:
    """What a person calls these codes."""
    classes = column.spec.classes
    return [str(code) if classes is None else classes[code] for code in codes.tolist()]
