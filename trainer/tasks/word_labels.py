"""Labels of the words of texts, and the token that each word begins with, as they are stored.

B texts, W words of the longest text of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cache_schema import Ragged

from .base import TargetError, name_samples
from .labels import MISSING, label_column

if TYPE_CHECKING:
    from cache_schema import FeatureCache, TargetColumn

FIRST_TOKENS = "first_tokens"
"""Stored input: for each word of a text the row of its first token, -1 for a word that has none."""
PADDING = -1
"""No label: past the last word of a text."""
NO_WORD = -2
"""Past the last word of a text, where -1 is a word that was cut off."""


@dataclass(frozen=True, eq=False)
class WordLabels:
    """The labelled words of a cache.

    Attributes:
        cache: Holds the rows of the words.
        column: Lists of labels, one for each word.
        rows: Sample number to the row of each word, once read.
    """

    cache: FeatureCache
    column: TargetColumn
    rows: dict[int, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, cache: FeatureCache, target: str) -> WordLabels:
        """Open the column.

        Raises:
            CacheError: There is no such column.
            TargetError: It does not hold lists of labels, or the cache does not know its words.
        """
        column = label_column(cache, target)
        kind = column.spec.kind
        if kind != "categories":
            one_each = "category", "integer"
            instead = "Use --task classification" if kind in one_each else "Choose another target"
            raise TargetError(
                f"target {target!r}: holds {kind!r}, token-classification needs lists of names or "
                f"whole numbers, one for each word. {instead}, or store such lists."
            )
        if FIRST_TOKENS not in cache.manifest.inputs:
            raise TargetError(
                f"{cache.path}: stores the inputs {list(cache.manifest.inputs)!r}, "
                f"token-classification needs {FIRST_TOKENS!r} too. Extract again with "
                "--align words."
            )
        return cls(cache, column)

    def check(self, samples: np.ndarray) -> None:
        """Look at what will be read.

        Raises:
            TargetError: A text has more or fewer labels than words, or one is missing.
        """
        self._read(samples)
        labels = self.labels(samples)
        owners = np.repeat(samples, labels.lengths)
        missing = np.unique(owners[labels.values == MISSING])
        if missing.size:
            raise TargetError(
                f"target {self.column.spec.name!r}: {name_samples(missing)} without a label for "
                "each word. Label them, or leave these rows out of the data."
            )
        num_words = np.array([len(self.rows[sample]) for sample in samples.tolist()])
        uneven = samples[labels.lengths != num_words]
        if uneven.size:
            first = int(np.flatnonzero(labels.lengths != num_words)[0])
            raise TargetError(
                f"target {self.column.spec.name!r}: {name_samples(uneven)} with another count of "
                f"labels than words (sample {uneven[0]}: {labels.lengths[first]} labels, "
                f"{num_words[first]} words), needed one for each word between spaces. Correct "
                "these rows, leave them out of the data, or extract the lists of words themselves "
                "(--text-column). Labels of whole texts are learned by --task classification."
            )

    def labels(self, samples: np.ndarray) -> Ragged:
        """The codes of the words of these samples."""
        assert self.column.offsets is not None, "lists of labels are ragged"
        return Ragged(self.column.values, self.column.offsets).take(samples)

    def first_tokens(self, samples: np.ndarray) -> Tensor:
        """(B, W) int64: the row of each word's first token; -1 for none, -2 past the last word."""
        self._read(samples)
        return padded([self.rows[sample] for sample in samples.tolist()], NO_WORD)

    def _read(self, samples: np.ndarray) -> None:
        """Keep the rows of samples: reading them opens whole shards."""
        new = [sample for sample in np.unique(samples).tolist() if sample not in self.rows]
        if new:
            self.rows.update(zip(new, self.cache.input(FIRST_TOKENS, new), strict=True))


def padded(rows: Sequence[np.ndarray], fill: int) -> Tensor:
    """(B, W) int64, at least one column wide, with `fill` past the end of each row."""
    table = np.full((len(rows), max([1, *map(len, rows)])), fill, np.int64)
    for place, row in zip(table, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(table)
