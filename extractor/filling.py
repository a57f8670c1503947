"""The hidden states of a shard while its batches come in, already as they are stored.

N packed rows of a batch, L layers, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cache_schema import (
    PAGE_BYTES,
    Encoding,
    Ragged,
    StreamSpec,
    UnreadableSample,
    encode,
    tensor_dtype,
)

from .backbones.base import Backbone, Prepared

_BUFFER_STEP = 2**22  # numbers; a sixteenth of a shard of 128 MiB in float16


@dataclass(frozen=True)
class ShardInputs:
    """The samples of one shard, ready for the backbone."""

    shard: int
    ids: np.ndarray
    views: np.ndarray
    prepared: Prepared
    targets: Mapping[str, Ragged | np.ndarray]
    unreadable: tuple[UnreadableSample, ...] = ()


@dataclass
class Accumulator:
    """One stream of a shard while it fills, as it is stored: on the backbone's device."""

    spec: StreamSpec
    offsets: np.ndarray
    parts: tuple[Tensor, ...]
    absmax_L: Tensor

    def add(self, values_NLD: Tensor, chosen: np.ndarray, stored: Encoding) -> None:
        """Put a batch where its samples belong in the shard; nothing here waits for a GPU.

        Encoded at once: the batch is still near the processor, and a shard of floats would take up
        to eight times the memory, and the bus, of what is stored of it.
        """
        encoded = encode(values_NLD, stored)
        for kept, part in zip(self.parts, encoded.parts, strict=True):
            rows = 0
            for sample in chosen.tolist():
                start, stop = self.offsets[sample], self.offsets[sample + 1]
                count = int(stop - start)
                kept[start:stop].copy_(part[rows : rows + count])
                rows += count
        self.absmax_L = torch.maximum(self.absmax_L, encoded.absmax_L)


class Buffers:
    """Memory for the hidden states of shards, used again: fresh pages cost a fault each."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: dict[str, list[Tensor]] = {}

    def take(self, array: str, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor."""
        count = math.prod(shape)
        free = self._free.setdefault(array, [])
        while free:
            if len(buffer := _page_aligned(free.pop())) >= count:
                return buffer[:count].view(shape)
        # Shards are about equally large, never exactly.
        size = max(1, math.ceil(count / _BUFFER_STEP)) * _BUFFER_STEP + PAGE_BYTES
        buffer = torch.empty(size, dtype=dtype, device=self._device)
        return _page_aligned(buffer)[:count].view(shape)

    def give_back(self, shard: FilledShard) -> None:
        """Nothing reads the hidden states of `shard` any more."""
        for stream, accumulator in shard.streams.items():
            for at, part in enumerate(accumulator.parts):
                whole = part._base
                assert whole is not None, "`take` gives views"
                self._free.setdefault(f"{stream}/{at}", []).append(whole)


def _page_aligned(buffer: Tensor) -> Tensor:
    """All but the start of a flat buffer: what begins at a page can be written past the cache."""
    return buffer[-buffer.data_ptr() % PAGE_BYTES // buffer.element_size() :]


@dataclass(frozen=True)
class FilledShard:
    """A shard whose forward passes were all started; `is_filled` says when a GPU is through."""

    inputs: ShardInputs
    streams: Mapping[str, Accumulator]
    stored_inputs: Sequence[str]
    is_filled: torch.Event | None


def empty_streams(
    backbone: Backbone, prepared: Prepared, stored: Encoding, buffers: Buffers
) -> dict[str, Accumulator]:
    """Room for every stream of a shard."""
    streams = {}
    for spec in backbone.streams:
        lengths = prepared.lengths[spec.name]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        parts = tuple(
            buffers.take(
                f"{spec.name}/{at}",
                (int(offsets[-1]), len(spec.layers), part.length),
                tensor_dtype(part.dtype),
            )
            for at, part in enumerate(stored.parts(spec.width))
        )
        absmax_L = torch.zeros(len(spec.layers), device=backbone.device)
        streams[spec.name] = Accumulator(spec, offsets, parts, absmax_L)
    return streams
