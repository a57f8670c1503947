"""What every backbone offers, whatever it is made of.

B samples, N packed rows (all tokens of all samples, no padding), L layers, D width, k axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from pydantic import JsonValue

from cache_schema import BackboneSpec, FeatureBatch, Ragged, StreamSpec

Sample = Mapping[str, object]
"""One sample by role: `id` (source row), `view` (0: as it is), and what the backbone reads:
`text` (or the list of its words), `text_pair`, `image` (a path or encoded bytes), `video` (a path,
or a list of images), `regions` (the path or the bytes of an npz file)."""


@dataclass(frozen=True, eq=False)
class Measured:
    """How much room samples will take, found without decoding images or running anything.

    Attributes:
        lengths: Stream name to (B,) int64, the rows of each sample; 0 where it cannot be read.
        input_bytes: Of the stored inputs' values, without offsets.
        truncated: (B,) bool, whether the sample is longer than the backbone takes.
        failures: Position among the samples to why it cannot be read.
    """

    lengths: Mapping[str, np.ndarray]
    input_bytes: int
    truncated: np.ndarray
    failures: Mapping[int, str] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        """B."""
        return len(self.truncated)

    @property
    def rows(self) -> np.ndarray:
        """(B,) int64: rows of all streams together, what to sort by."""
        total: np.ndarray = np.sum(list(self.lengths.values()), axis=0)
        return total


@dataclass(frozen=True, eq=False)
class Prepared:
    """Samples as the backbone's inputs, not padded, on the CPU.

    Attributes:
        inputs: Input name to one entry per sample: ragged, or (B, ...). The stored ones are ragged.
        lengths: Stream name to (B,) int64, the rows of each sample; 0 where it cannot be read.
        truncated: (B,) bool, whether the sample was longer than the backbone takes.
        grids: Name of each stream that has axes to (B, k) int64, the shape of its positions.
        failures: Position among the samples to why it could not be read; never given to `run`.
    """

    inputs: Mapping[str, Ragged | np.ndarray]
    lengths: Mapping[str, np.ndarray]
    truncated: np.ndarray
    grids: Mapping[str, np.ndarray] = field(default_factory=dict)
    failures: Mapping[int, str] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        """B."""
        return len(self.truncated)

    @property
    def rows(self) -> np.ndarray:
        """(B,) int64: rows of all streams together, what to sort by."""
        total: np.ndarray = np.sum(list(self.lengths.values()), axis=0)
        return total

    def ragged(self, name: str) -> Ragged:
        """An input of one sequence per sample."""
        column = self.inputs[name]
        assert isinstance(column, Ragged)
        return column

    def longest_first(self) -> np.ndarray:
        """Positions of the samples that can be read, those with the most rows first."""
        order = np.argsort(-self.rows, kind="stable")
        return order[self.rows[order] > 0]


class Backbone(Protocol):
    """A frozen pretrained network: samples in, hidden states out.

    `measure` and `prepare` may run in any number of threads beside one thread that calls `run`.
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

    def measure(self, samples: Sequence[Sample]) -> Measured:
        """The room that samples take: `prepare` without decoding images."""

    def prepare(self, samples: Sequence[Sample]) -> Prepared:
        """Turn samples into inputs; no padding, no device. Views above 0 are augmented."""

    def run(
        self,
        prepared: Prepared,
        indices: Sequence[int] | np.ndarray,
        dtype: torch.dtype | None = None,
    ) -> FeatureBatch:
        """The hidden states of these samples of `prepared`, in this order.

        Args:
            prepared: Made by `prepare`.
            indices: Positions of the samples.
            dtype: Of the values; that of the forward pass if None.

        Returns:
            Packed (N, L, D) values of every stream on `device`, without gradient history; grids
            where the stream has axes. `sample_ids` are `indices`.
        """
