"""What every backbone offers, whatever it is made of.

B samples, N packed rows (all tokens of all samples, no padding), L layers, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from pydantic import JsonValue

from cache_schema import BackboneSpec, FeatureBatch, StreamSpec


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows of different lengths, one after the other.

    Attributes:
        values: All entries.
        offsets: (B + 1,) int64; row i is `values[offsets[i]:offsets[i + 1]]`.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]], dtype: type[np.generic]) -> Ragged:
        """Join these rows."""
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        values = np.empty(int(offsets[-1]), dtype=dtype)
        for start, row in zip(offsets, rows, strict=False):
            values[start : start + len(row)] = row
        return cls(values, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """(B,) int64."""
        return np.diff(self.offsets)

    def take(self, rows: Sequence[int] | np.ndarray) -> Ragged:
        """These rows, in this order."""
        lengths = self.lengths[rows]
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        shift = np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return Ragged(self.values[np.arange(int(offsets[-1])) + shift], offsets)


@dataclass(frozen=True, eq=False)
class Prepared:
    """Samples as the backbone's inputs, not padded, on the CPU.

    Attributes:
        inputs: Input name to one row per sample.
        lengths: (B,) int64, positions each sample takes in the backbone: what to sort by.
        truncated: (B,) bool, whether the sample was longer than the backbone takes.
    """

    inputs: Mapping[str, Ragged]
    lengths: np.ndarray
    truncated: np.ndarray

    @property
    def num_samples(self) -> int:
        """B."""
        return len(self.lengths)

    @property
    def num_truncated(self) -> int:
        """How many samples were cut."""
        return int(self.truncated.sum())


class Backbone(Protocol):
    """A frozen pretrained network: samples in, hidden states out.

    `prepare` may run in any number of threads beside one thread that calls `run`.
    """

    @property
    def spec(self) -> BackboneSpec:
        """What it is, for the manifest."""

    @property
    def streams(self) -> tuple[StreamSpec, ...]:
        """The streams and layers that `run` returns."""

    @property
    def identity(self) -> dict[str, JsonValue]:
        """Everything about it that can change a stored number."""

    @property
    def stored_inputs(self) -> tuple[str, ...]:
        """Those of `Prepared.inputs` that belong into a cache."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def prepare(self, samples: Sequence[Mapping[str, object]]) -> Prepared:
        """Turn samples into inputs; no padding, no device."""

    def run(self, prepared: Prepared, indices: Sequence[int] | np.ndarray) -> FeatureBatch:
        """The hidden states of these samples of `prepared`, in this order.

        Returns:
            Packed (N, L, D) values on `device` in the precision of the forward pass, without
            gradient history. `sample_ids` are `indices`.
        """
