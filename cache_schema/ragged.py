"""Values of several samples of different lengths, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Ragged:
    """Sample i is `values[offsets[i]:offsets[i + 1]]`.

    Attributes:
        values: (rows, ...) entries of all samples.
        offsets: (samples + 1,) int64.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_lengths(cls, values: np.ndarray, lengths: np.ndarray | Sequence[int]) -> Ragged:
        """Values that are in place already, of samples with these lengths."""
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(values, offsets)

    @classmethod
    def from_rows(
        cls, rows: Sequence[Sequence[int] | np.ndarray], dtype: type[np.generic]
    ) -> Ragged:
        """Join one sequence per sample."""
        lengths = [len(row) for row in rows]
        values = np.empty(sum(lengths), dtype=dtype)
        joined = cls.from_lengths(values, lengths)
        for sample, row in enumerate(rows):
            joined[sample][:] = row
        return joined

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, sample: int) -> np.ndarray:
        part: np.ndarray = self.values[self.offsets[sample] : self.offsets[sample + 1]]
        return part

    @property
    def lengths(self) -> np.ndarray:
        """(samples,) int64."""
        return np.diff(self.offsets)

    def take(self, samples: Sequence[int] | np.ndarray) -> Ragged:
        """These samples, in this order."""
        lengths = self.lengths[samples]
        starts = np.cumsum(lengths) - lengths
        shift = np.repeat(self.offsets[samples] - starts, lengths)
        return Ragged.from_lengths(self.values[np.arange(int(lengths.sum())) + shift], lengths)
