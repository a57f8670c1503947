"""From samples to finished shards: reading, compute and writing overlap in bounded queues.

N packed rows of a batch, L layers, D width.

    read + tokenise (a thread) --1 shard--> forward (this thread) --1 shard--> write (a thread)

At most three shards are in memory, however large the data is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from itertools import islice
from typing import Protocol

import numpy as np
import torch

from cache_schema import (
    Encoding,
    LayerStatistics,
    Ragged,
    ShardContents,
    StreamContents,
    StreamSpec,
    decode,
    keep_freed_memory,
    to_stored,
)

from .backbones.base import Backbone
from .errors import HiddenStateError
from .filling import Accumulator, Buffers, FilledShard, ShardInputs, empty_streams
from .helper_threads import helper_thread


class ReadShard(Protocol):
    """Reads and tokenises one shard; called from another thread."""

    def __call__(self, shard: int) -> ShardInputs: ...


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
    buffers = Buffers(backbone.device)
    remaining = iter(shards)
    with helper_thread("unipt-read") as reader, helper_thread("unipt-write") as out:
        writing: tuple[Future[object], FilledShard] | None = None
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
    buffers: Buffers,
    batch_size: int,
    on_batch: Callable[[int], None],
) -> tuple[FilledShard, int]:
    """All hidden states of one shard, still on the device, and the batch size that fitted it."""
    prepared = inputs.prepared
    order = prepared.longest_first()
    filling = {} if len(order) else empty_streams(backbone, prepared, stored, buffers)
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
            filling = empty_streams(backbone, prepared, stored, buffers)
        for name, accumulator in filling.items():
            accumulator.add(batch.streams[name].values, chosen, stored)
        done += len(chosen)
        on_batch(len(chosen))
    filled = torch.Event("cuda") if backbone.device.type == "cuda" else None
    if filled is not None:
        filled.record()
    return FilledShard(inputs, filling, backbone.stored_inputs, filled), batch_size


def _finish_and_write(
    shard: FilledShard,
    stored: Encoding,
    write: Callable[[int, ShardContents], object],
) -> object:
    return write(shard.inputs.shard, _finish(shard, stored))


def _finish(shard: FilledShard, stored: Encoding) -> ShardContents:
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


def _to_host(accumulator: Accumulator, side: torch.Stream) -> Accumulator:
    absmax_L, *parts = (
        torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(
            tensor, non_blocking=True
        )
        for tensor in (accumulator.absmax_L, *accumulator.parts)
    )
    side.synchronize()
    return Accumulator(accumulator.spec, accumulator.offsets, tuple(parts), absmax_L)


def _check(accumulator: Accumulator, inputs: ShardInputs, stored: Encoding) -> StreamContents:
    absmax = tuple(accumulator.absmax_L.tolist())
    # What cannot be stored is not finite in the last part: the floats themselves, or the scales.
    for layer, largest in enumerate(absmax):
        if not math.isfinite(largest):
            bad_N = ~accumulator.parts[-1][:, layer].float().isfinite().all(-1).numpy()
            row = int(np.flatnonzero(bad_N)[0])
            sample = int(np.searchsorted(accumulator.offsets, row, side="right")) - 1
            raise _UnstorableError(inputs, accumulator.spec, layer, sample)
    statistics = LayerStatistics(absmax=absmax, mean_square=_mean_square(accumulator, stored))
    values, *scales = map(to_stored, accumulator.parts)
    grid = inputs.prepared.grids.get(accumulator.spec.name)
    return StreamContents(Ragged(values, accumulator.offsets), statistics, grid, *scales)


_DESCRIBED_ROWS = 1024


def _mean_square(accumulator: Accumulator, stored: Encoding) -> tuple[float, ...]:
    """Of each layer, from rows spread over the shard: it describes, and nothing depends on it."""
    num_rows = int(accumulator.offsets[-1])
    if not num_rows:
        return (0.0,) * len(accumulator.spec.layers)
    step = -(-num_rows // _DESCRIBED_ROWS)
    chosen = tuple(part[::step] for part in accumulator.parts)
    chosen_NLD = decode(chosen, stored, accumulator.spec.width).float()
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
        f"Run again with --precision float32{'' if stored.bits else ' --encoding bfloat16'}."
    )
