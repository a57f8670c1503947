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

from cache_schema import BackboneSpec, FeatureBatch, Ragged, StreamSpec


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
