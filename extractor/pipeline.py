"""From samples to finished shards: reading, compute and writing overlap in bounded queues.

N packed rows of a batch, L layers, D width.

    read + tokenise (a thread) --1 shard--> forward (this thread) --1 shard--> write (a thread)

At most three shards are in memory, however large the data is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cache_schema import (
    PAGE_BYTES,
    Encoding,
    FeatureBatch,
    LayerStatistics,
    Ragged,
    ShardContents,
    StreamContents,
    StreamSpec,
    UnreadableSample,
    keep_freed_memory,
)

from .backbones.base import Backbone, Prepared
from .errors import HiddenStateError
from .helper_threads import helper_thread


@dataclass(frozen=True)
class ShardInputs:
    """The samples of one shard, ready for the backbone."""

    shard: int
    ids: np.ndarray
    views: np.ndarray
    prepared: Prepared
    targets: Mapping[str, Ragged | np.ndarray]
    unreadable: tuple[UnreadableSample, ...] = ()


class ReadShard(Protocol):
    """Reads and tokenises one shard; called from another thread."""

    def __call__(self, shard: int) -> ShardInputs: ...


@dataclass
class _Accumulator:
    """One stream of a shard while it fills: (rows, L, D) on the backbone's device."""

    spec: StreamSpec
    offsets: np.ndarray
    states: Tensor
    absmax_L: Tensor


_DESCRIBED_ROWS = 1024
_BUFFER_STEP = 2**22  # numbers; a sixteenth of a shard of 128 MiB in float16


class _Buffers:
    """Memory for the hidden states of shards, used again: fresh pages cost a fault each."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._free: dict[str, list[Tensor]] = {}

    def take(self, stream: str, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
        """An uninitialised tensor."""
        count = math.prod(shape)
        free = self._free.setdefault(stream, [])
        while free:
            if len(buffer := _page_aligned(free.pop())) >= count:
                return buffer[:count].view(shape)
        # Shards are about equally large, never exactly.
        size = max(1, math.ceil(count / _BUFFER_STEP)) * _BUFFER_STEP + PAGE_BYTES
        buffer = torch.empty(size, dtype=dtype, device=self._device)
        return _page_aligned(buffer)[:count].view(shape)

    def give_back(self, shard: _FilledShard) -> None:
        """Nothing reads the hidden states of `shard` any more."""
        for stream, accumulator in shard.streams.items():
            whole = accumulator.states._base
            assert whole is not None, "`take` gives views"
            self._free.setdefault(stream, []).append(whole)


def _page_aligned(buffer: Tensor) -> Tensor:
    """All but the start of a flat buffer: what begins at a page can be written past the cache."""
    return buffer[-buffer.data_ptr() % PAGE_BYTES // buffer.element_size() :]


@dataclass(frozen=True)
class _FilledShard:
    """A shard whose forward passes were all started; `is_filled` says when a GPU is through."""

    inputs: ShardInputs
    streams: Mapping[str, _Accumulator]
    stored_inputs: Sequence[str]
    is_filled: torch.Event | None


def extract_shards(
    backbone: Backbone,
    shards: Iterable[int],
    *,
    read: ReadShard,
    write: Callable[[int, ShardContents], object],
    stored: Encoding,
    batch_size: int,
    on_batch: Callable[[int], None],
) -> None:
    """Run the backbone over these shards and hand each to `write`, in order.

    Args:
        backbone: The frozen network.
        shards: Which shards to make, asked for one at a time, when it is read.
        read: Gives the inputs of a shard, in a thread of its own.
        write: Takes a finished shard, in a thread of its own.
        stored: How hidden states are stored.
        batch_size: Samples per forward pass, halved when the device runs out of memory.
        on_batch: Called with the number of samples after each batch.

    Raises:
        HiddenStateError: A hidden state cannot be stored.
        Exception: Whatever `read` or `write` raises; shards written before stay.
    """
    keep_freed_memory()
    buffers = _Buffers(backbone.device)
    remaining = iter(shards)
    with helper_thread("unipt-read") as reader, helper_thread("unipt-write") as out:
        writing: tuple[Future[object], _FilledShard] | None = None
        # One is read while the one before is run.
        coming = deque(reader.submit(read, shard) for shard in islice(remaining, 1))
        while coming:
            inputs = coming.popleft().result()
            coming.extend(reader.submit(read, shard) for shard in islice(remaining, 1))
            filled, batch_size = _run_shard(backbone, inputs, stored, buffers, batch_size, on_batch)
            if writing is not None:
                _wait(writing[0], backbone, stored)
                buffers.give_back(writing[1])
            writing = out.submit(_finish_and_write, filled, stored, write), filled
        if writing is not None:
            _wait(writing[0], backbone, stored)


def _wait(written: Future[object], backbone: Backbone, stored: Encoding) -> None:
    try:
        written.result()
    except _UnstorableError as error:
        raise _explain(error, backbone, stored) from None


def _run_shard(
    backbone: Backbone,
    inputs: ShardInputs,
    stored: Encoding,
    buffers: _Buffers,
    batch_size: int,
    on_batch: Callable[[int], None],
) -> tuple[_FilledShard, int]:
    """All hidden states of one shard, still on the device, and the batch size that fitted it."""
    prepared = inputs.prepared
    order = prepared.longest_first()
    filling = {} if len(order) else _accumulators(backbone, prepared, stored, buffers)
    done = 0
    while done < len(order):
        chosen = order[done : done + batch_size]
        try:
            batch = backbone.run(prepared, chosen, stored.dtype)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            # The longest samples come first, so this happens early and seldom twice.
            batch_size = max(1, batch_size // 2)
            torch.cuda.empty_cache()
            continue
        if not filling:
            filling = _accumulators(backbone, prepared, stored, buffers)
        for name, accumulator in filling.items():
            _add(accumulator, batch, name, chosen)
        done += len(chosen)
        on_batch(len(chosen))
    filled = torch.Event("cuda") if backbone.device.type == "cuda" else None
    if filled is not None:
        filled.record()
    return _FilledShard(inputs, filling, backbone.stored_inputs, filled), batch_size


def _accumulators(
    backbone: Backbone, prepared: Prepared, stored: Encoding, buffers: _Buffers
) -> dict[str, _Accumulator]:
    accumulators = {}
    for spec in backbone.streams:
        lengths = prepared.lengths[spec.name]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        shape = (int(offsets[-1]), len(spec.layers), spec.width)
        accumulators[spec.name] = _Accumulator(
            spec,
            offsets,
            buffers.take(spec.name, shape, stored.dtype),
            torch.zeros(len(spec.layers), device=backbone.device),
        )
    return accumulators


def _add(accumulator: _Accumulator, batch: FeatureBatch, name: str, chosen: np.ndarray) -> None:
    """Put a batch where its samples belong in the shard; nothing here waits for a GPU."""
    values_NLD = batch.streams[name].values
    rows = 0
    for sample in chosen.tolist():
        start, stop = accumulator.offsets[sample], accumulator.offsets[sample + 1]
        count = int(stop - start)
        accumulator.states[start:stop].copy_(values_NLD[rows : rows + count])
        rows += count
    accumulator.absmax_L = torch.maximum(accumulator.absmax_L, _absmax(values_NLD))


def _absmax(values_NLD: Tensor) -> Tensor:
    """(L,) float32: the largest absolute value of each layer, NaN if there is one.

    Without their sign, floats are ordered like the integers of the same bits, NaN above all: one
    pass over half the bytes. Over the rows first, which is contiguous and several times faster.
    """
    bits = torch.int16 if values_NLD.element_size() == 2 else torch.int32
    unsigned_NLD = values_NLD.view(bits).bitwise_and(torch.iinfo(bits).max)
    return unsigned_NLD.amax(0).amax(1).view(values_NLD.dtype).float()


def _finish_and_write(
    shard: _FilledShard,
    stored: Encoding,
    write: Callable[[int, ShardContents], object],
) -> object:
    return write(shard.inputs.shard, _finish(shard, stored))


def _finish(shard: _FilledShard, stored: Encoding) -> ShardContents:
    """Bring a shard to the host and check it; on a GPU beside the next shard's forward passes."""
    if shard.is_filled is None:
        streams = {n: _check(a, shard.inputs, stored) for n, a in shard.streams.items()}
    else:
        # The default stream is busy with the next shard: wait for this one's event only.
        side = torch.Stream("cuda")
        side.wait_event(shard.is_filled)
        with side:
            streams = {
                n: _check(_to_host(a, side), shard.inputs, stored) for n, a in shard.streams.items()
            }
    prepared = shard.inputs.prepared
    return ShardContents(
        shard.inputs.ids,
        streams,
        {name: prepared.inputs[name] for name in shard.stored_inputs},
        shard.inputs.targets,
        shard.inputs.views,
        shard.inputs.unreadable,
    )


def _to_host(accumulator: _Accumulator, side: torch.Stream) -> _Accumulator:
    tensors = (accumulator.states, accumulator.absmax_L)
    copies = []
    for tensor in tensors:
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        copies.append(host.copy_(tensor, non_blocking=True))
    side.synchronize()
    return _Accumulator(accumulator.spec, accumulator.offsets, *copies)


def _check(accumulator: _Accumulator, inputs: ShardInputs, stored: Encoding) -> StreamContents:
    absmax = tuple(accumulator.absmax_L.tolist())
    # What is too large for the encoding became infinite in it.
    for layer, largest in enumerate(absmax):
        if not math.isfinite(largest):
            bad_N = ~accumulator.states[:, layer].float().isfinite().all(-1).numpy()
            row = int(np.flatnonzero(bad_N)[0])
            sample = int(np.searchsorted(accumulator.offsets, row, side="right")) - 1
            raise _UnstorableError(inputs, accumulator.spec, layer, sample)
    statistics = LayerStatistics(absmax=absmax, mean_square=_mean_square(accumulator.states))
    values = stored.to_stored(accumulator.states)
    grid = inputs.prepared.grids.get(accumulator.spec.name)
    return StreamContents(Ragged(values, accumulator.offsets), statistics, grid)


def _mean_square(states_NLD: Tensor) -> tuple[float, ...]:
    """Of each layer, from rows spread over the shard: it describes, and nothing depends on it."""
    if not len(states_NLD):
        return (0.0,) * states_NLD.shape[1]
    chosen_NLD = states_NLD[:: -(-len(states_NLD) // _DESCRIBED_ROWS)].float()
    return tuple(chosen_NLD.square().mean((0, 2)).tolist())


class _UnstorableError(Exception):
    """A hidden state is not finite once it is stored: of which layer, and of which sample."""

    def __init__(self, inputs: ShardInputs, spec: StreamSpec, layer: int, sample: int) -> None:
        super().__init__()
        self.inputs, self.spec, self.layer, self.sample = inputs, spec, layer, sample


def _explain(error: _UnstorableError, backbone: Backbone, stored: Encoding) -> HiddenStateError:
    """What the sample's states are before they are stored, and what to do about it."""
    inputs, layer = error.inputs, error.spec.layers[error.layer]
    batch = backbone.run(inputs.prepared, [error.sample])
    largest = float(batch.streams[error.spec.name].values[:, error.layer].float().abs().max())
    where = f"layer {layer.index} ({layer.module}) of the sample in row {inputs.ids[error.sample]}"
    if np.isfinite(largest):
        return HiddenStateError(
            f"{where}: a hidden state of {largest:.6g} is too large for {stored.name} (at most "
            f"{stored.largest:.6g}). Run again with --encoding bfloat16."
        )
    return HiddenStateError(
        f"{where}: the backbone gave a hidden state that is not finite. "
        "Run again with --precision float32 --encoding bfloat16."
    )
