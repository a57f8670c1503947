"""Ragged hidden states of some samples: what a backbone produces and a network consumes.

B samples, T tokens of the longest sample, N packed rows (all tokens of all samples, no padding),
L layers, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from .quantised import Scales, dequantise


@dataclass(frozen=True, eq=False)
class RowLayout:
    """Which packed row is which token of which sample.

    Attributes:
        lengths: (B,) int64, tokens of each sample, at least 1 each.
        max_length: T, the longest of `lengths`.
        positions: (N,) int64, where each packed row sits in the flattened (B, T) grid.
    """

    lengths: Tensor
    max_length: int
    positions: Tensor

    @classmethod
    def from_lengths(cls, lengths: Sequence[int] | np.ndarray | Tensor) -> RowLayout:
        """Lay out samples of these lengths one after the other.

        Raises:
            ValueError: There is no sample, or one of them has no token.
        """
        counts = np.asarray(lengths, dtype=np.int64)
        if counts.ndim != 1 or counts.size == 0 or counts.min() < 1:
            raise ValueError(
                f"row layout: lengths are {counts.tolist()!r}, needed one or more samples with "
                "at least one token each. Drop empty samples before batching."
            )
        max_length = int(counts.max())
        starts = np.cumsum(counts) - counts
        shift = np.arange(len(counts)) * max_length - starts
        positions = np.arange(int(counts.sum())) + np.repeat(shift, counts)
        return cls(torch.from_numpy(counts.copy()), max_length, torch.from_numpy(positions))

    @property
    def num_samples(self) -> int:
        """B."""
        return int(self.lengths.shape[0])

    @property
    def num_rows(self) -> int:
        """N."""
        return int(self.positions.shape[0])

    @property
    def is_dense(self) -> bool:
        """Whether every sample has the same length, so that padding is a plain reshape."""
        return self.num_rows == self.num_samples * self.max_length

    def sample_of_row(self) -> Tensor:
        """(N,) int64: the sample that each packed row belongs to."""
        return self.positions // self.max_length

    def first_rows(self) -> Tensor:
        """(B,) int64: the packed row of each sample's first token."""
        return self.lengths.cumsum(0) - self.lengths

    def last_rows(self) -> Tensor:
        """(B,) int64: the packed row of each sample's last token."""
        return self.lengths.cumsum(0) - 1

    def mask(self) -> Tensor:
        """(B, T) bool: True where a token is real."""
        steps = torch.arange(self.max_length, device=self.lengths.device)
        return steps < self.lengths[:, None]

    def pad(self, rows: Tensor) -> Tensor:
        """(N, ...) packed rows as (B, T, ...), zeros at padded places."""
        shape = (self.num_samples, self.max_length, *rows.shape[1:])
        if self.is_dense:
            return rows.reshape(shape)
        padded = rows.new_zeros((shape[0] * shape[1], *rows.shape[1:]))
        return padded.index_copy(0, self.positions, rows).reshape(shape)

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) as (N, ...) packed rows: the inverse of `pad`."""
        flat = padded.flatten(0, 1)
        return flat if self.is_dense else flat.index_select(0, self.positions)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> RowLayout:
        """The same layout on another device."""
        return replace(
            self,
            lengths=self.lengths.to(device, non_blocking=non_blocking),
            positions=self.positions.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True, eq=False)
class StreamBatch:
    """The hidden states of one stream: layers that share token positions and width.

    Attributes:
        values: (N, L, D) packed hidden states in a floating dtype.
        layout: Which row belongs to which sample.
        grid: (B, k) int64 where positions have a shape, such as (height, width); else None.
        scales: Not None where `values` are still the whole numbers of a quantised cache, which
            `to` decodes.
    """

    values: Tensor
    layout: RowLayout
    grid: Tensor | None = None
    scales: Scales | None = None

    @property
    def num_layers(self) -> int:
        """L."""
        return int(self.values.shape[1])

    @property
    def width(self) -> int:
        """D."""
        return int(self.values.shape[2]) if self.scales is None else self.scales.width

    def to(
        self,
        device: torch.device | str,
        *,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> StreamBatch:
        """The same stream on another device; hidden states are decoded and cast after the copy."""
        values = self.values.to(device, non_blocking=non_blocking)
        if self.scales is not None:
            scales = self.scales.to(device, non_blocking=non_blocking)
            values = dequantise(values, scales, dtype or torch.float32)
        return StreamBatch(
            values if dtype is None else values.to(dtype),
            self.layout.to(device, non_blocking=non_blocking),
            None if self.grid is None else self.grid.to(device, non_blocking=non_blocking),
        )


@dataclass(frozen=True, eq=False)
class FeatureBatch:
    """Hidden states of some samples, from disk or straight from the backbone.

    Attributes:
        streams: Stream name to its hidden states; every stream has the same samples in order.
        sample_ids: (B,) int64 positions in the cache, or in the data for online batches.
        targets: Target name to a tensor whose first axis is B.
    """

    streams: Mapping[str, StreamBatch]
    sample_ids: Tensor
    targets: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        """B."""
        return int(self.sample_ids.shape[0])

    @property
    def sides(self) -> tuple[FeatureBatch, ...]:
        """The batches of single caches that it is made of: itself."""
        return (self,)

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor in it."""
        yield self.sample_ids
        yield from self.targets.values()
        for stream in self.streams.values():
            yield from (stream.values, stream.layout.lengths, stream.layout.positions)
            if stream.grid is not None:
                yield stream.grid
            if stream.scales is not None:
                yield stream.scales.values

    def to(
        self,
        device: torch.device | str,
        *,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> FeatureBatch:
        """The same batch on another device; hidden states are decoded and cast after the copy."""
        return FeatureBatch(
            {
                k: s.to(device, dtype=dtype, non_blocking=non_blocking)
                for k, s in self.streams.items()
            },
            self.sample_ids.to(device, non_blocking=non_blocking),
            {k: t.to(device, non_blocking=non_blocking) for k, t in self.targets.items()},
        )
