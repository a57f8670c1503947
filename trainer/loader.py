"""Cache to batches on the device, read ahead by one thread.

B samples of a batch.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch

from .device import dtype_on_arrival
from .order import batch_bounds
from .sources import Batch, Source
from .tasks import TargetReader

T = TypeVar("T")

_AHEAD = 2  # batches that wait; with the one in the making and the one in use, four live at once


class BatchLoader:
    """Batches of a cache, or of two joined ones, with their targets, on a device."""

    def __init__(
        self,
        source: Source,
        read_targets: TargetReader,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._source = source
        self._read_targets = read_targets
        self._device = device
        self._dtype = dtype

    def load(self, samples: np.ndarray) -> Batch:
        """One batch, at once."""
        return self._arrive(self._read(samples))

    def batches(
        self, samples: np.ndarray, batch_size: int, *, first_batch: int = 0
    ) -> Prefetcher[Batch]:
        """Batches of consecutive `samples`, in order, from batch number `first_batch` on.

        Use it in a `with` statement: leaving it early stops the reading thread.
        """
        parts = [
            samples[start:stop]
            for start, stop in batch_bounds(len(samples), batch_size, first_batch=first_batch)
        ]
        if self._device.type != "cuda":
            # Quantised numbers wait as they are stored, and are decoded where the cores compute:
            # a second thread that did it would fight with the first one's for them.
            return Prefetcher(map(self._read, parts), self._arrive)
        # Copies run on a stream of their own, while the GPU computes.
        stream = torch.cuda.Stream(self._device)

        def load_beside(part: np.ndarray) -> _Copied:
            with torch.cuda.stream(stream):
                return _Copied(self.load(part), stream.record_event())

        return Prefetcher(map(load_beside, parts), _take_over)

    def _read(self, samples: np.ndarray) -> Batch:
        """On the host, as it is stored."""
        pin_memory = self._device.type == "cuda"
        host = self._source.gather(samples, pin_memory=pin_memory, decode=False)
        batch: Batch = replace(host, targets=self._read_targets(samples))
        return batch

    def _arrive(self, batch: Batch) -> Batch:
        dtype = dtype_on_arrival(self._device, self._dtype)
        return batch.to(self._device, dtype=dtype, non_blocking=True)


class Prefetcher(Generic[T]):
    """Makes the next items in a thread while the present one is used.

    Args:
        items: Made in the thread, at most `_AHEAD` of them in advance.
        receive: Applied to each item in the consuming thread.
    """

    def __init__(self, items: Iterable[object], receive: Callable[..., T]) -> None:
        self._items = items
        self._receive = receive
        self._ready: deque[object] = deque()
        self._failure: BaseException | None = None
        self._is_exhausted = False
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._fill, name="unipt-prefetch", daemon=True)

    def __enter__(self) -> Prefetcher[T]:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._is_closed = True
            self._ready.clear()
            self._changed.notify_all()
        self._thread.join()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._is_exhausted)
                if not self._ready:
                    if self._failure is not None:
                        raise self._failure
                    return
                item = self._ready.popleft()
                self._changed.notify_all()
            yield self._receive(item)

    def _fill(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._ready) < _AHEAD or self._is_closed)
                    if self._is_closed:
                        return
                    self._ready.append(item)
                    self._changed.notify_all()
        except BaseException as error:  # it is raised again where the batch was wanted
            self._failure = error
        finally:
            with self._changed:
                self._is_exhausted = True
                self._changed.notify_all()


@dataclass(frozen=True)
class _Copied:
    batch: Batch
    arrived: torch.cuda.Event


def _take_over(copied: _Copied) -> Batch:
    """Let the computing stream wait for the copy, and tell the allocator who uses the memory."""
    stream = torch.cuda.current_stream()
    stream.wait_event(copied.arrived)
    for tensor in copied.batch.tensors():
        tensor.record_stream(stream)
    return copied.batch
