"""Reading the bytes of any samples from their shards, each checked the first time it is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from threading import Event
from typing import TypeVar

import numpy as np

from .checksums import crc32c_of
from .encodings import encoding
from .errors import CorruptCacheError, DamagedError
from .local_copy import Chunk, LocalCopy
from .manifest import Manifest, StreamSpec
from .receipts import Receipt
from .shard import SAMPLE_CRCS, chunk_key, read_array
from .storage import Storage

T = TypeVar("T")


@dataclass(frozen=True)
class StreamIndex:
    """Where every sample of a stream lies in its shard's chunk; zeros where unfinished.

    Attributes:
        row_starts: (samples,) int64.
        lengths: (samples,) int64, rows of each sample.
        crcs: Name of an array to (samples,) uint32, CRC32C of each sample's bytes in it.
        checked: Likewise, whether these were compared already.
    """

    row_starts: np.ndarray
    lengths: np.ndarray
    crcs: dict[str, np.ndarray]
    checked: dict[str, np.ndarray]

    @classmethod
    def empty(cls, num_samples: int, arrays: Iterable[str]) -> StreamIndex:
        """Of a cache without a finished shard."""
        names = list(arrays)
        return cls(
            np.zeros(num_samples, np.int64),
            np.zeros(num_samples, np.int64),
            {name: np.zeros(num_samples, np.uint32) for name in names},
            {name: np.zeros(num_samples, bool) for name in names},
        )


class SampleReader:
    """Reads arrays and samples of the finished shards of one cache.

    Args:
        storage: Of the cache.
        manifest: Of the cache.
        receipts: Of its finished shards.
        copy: Where hidden states are kept that were read once; nowhere if None.
    """

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        receipts: dict[int, Receipt],
        copy: LocalCopy | None = None,
    ) -> None:
        self._storage = storage
        self._manifest = manifest
        self._receipts = receipts
        self._copy = copy
        self._encoding = encoding(manifest.encoding)
        self._shard_starts = np.array(manifest.shard_starts)
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    @cached_property
    def index(self) -> dict[str, StreamIndex]:
        """Stream name to where its samples lie."""
        streams = self._manifest.streams
        index = {
            spec.name: StreamIndex.empty(
                self._manifest.num_samples, (p.name for p in self._encoding.parts(spec.width))
            )
            for spec in streams
        }
        columns = [crcs for stream in index.values() for crcs in stream.crcs.values()]
        for where, found in self.of_each_shard(SAMPLE_CRCS):
            for known, crcs in zip(columns, found.T, strict=True):
                known[where] = crcs
        for spec in streams:
            for where, offsets in self.of_each_shard(f"{spec.name}/offsets"):
                index[spec.name].row_starts[where] = offsets[:-1]
                index[spec.name].lengths[where] = np.diff(offsets)
        return index

    def of_each_shard(self, name: str) -> Iterator[tuple[slice, np.ndarray]]:
        """The samples of each finished shard, and its array of this name."""
        arrays = self.of_shards(lambda shard: self.read_array(shard, name), self._receipts)
        for shard, array in zip(self._receipts, arrays, strict=True):
            samples = self._manifest.shard_samples(shard)
            yield slice(samples.start, samples.stop), array

    def shards_of(self, samples: np.ndarray) -> np.ndarray:
        """The shard that each sample lies in."""
        shards: np.ndarray = np.searchsorted(self._shard_starts, samples, side="right") - 1
        return shards

    def read_array(self, shard: int, name: str) -> np.ndarray:
        """One whole array of a finished shard, its CRC checked.

        Raises:
            CorruptCacheError: It is missing, cut or changed.
        """
        receipt = self._receipts[shard]
        try:
            return read_array(self._storage, receipt.attempt, name, receipt.arrays[name])
        except (DamagedError, KeyError) as error:
            path = self._storage.path
            raise CorruptCacheError(
                f"{path}: shard {shard}: {error}. Run `unipt repair {path}`."
            ) from error

    def of_shards(self, read: Callable[[int], T], shards: Iterable[int]) -> Iterator[T]:
        """What `read` gives of each shard, in order, several at a time."""
        return self._threads().map(read, shards)

    def read_samples(
        self, spec: StreamSpec, part: str, chosen: np.ndarray, out: np.ndarray
    ) -> None:
        """Fill `out` with the rows of the chosen samples, several reads at a time.

        Args:
            spec: The stream.
            part: Which of its arrays.
            chosen: Sample numbers.
            out: (rows of all chosen samples, layers, ...), contiguous.

        Raises:
            CorruptCacheError: The bytes of a sample are missing or not what was written.
        """
        index = self.index[spec.name]
        row_bytes = out.itemsize * int(np.prod(out.shape[1:]))
        num_bytes = index.lengths[chosen] * row_bytes
        ends = np.cumsum(num_bytes)
        shards = self.shards_of(chosen)
        columns = (chosen, shards, index.row_starts[chosen] * row_bytes, ends - num_bytes, ends)
        jobs = list(zip(*(column.tolist() for column in columns), strict=True))
        target = out.data.cast("B")
        array = f"{spec.name}/{part}"
        chunks = {
            shard: Chunk(
                chunk_key(self._receipts[shard].attempt, array, 3),
                self._receipts[shard].arrays[array].shape[0] * row_bytes,
            )
            for shard in set(shards.tolist())
        }
        crcs, checked = index.crcs[part], index.checked[part]

        def read_one(sample: int, shard: int, offset: int, start: int, end: int) -> None:
            view = target[start:end]
            is_right = partial(_has_crc, view, int(crcs[sample]))
            try:
                if self._copy is not None:
                    found = self._copy.read_into(chunks[shard], offset, view, is_right)
                else:
                    self._storage.read_into(chunks[shard].key, offset, view)
                    found = (checked[sample] and self._storage.is_local) or is_right()
            except (EOFError, FileNotFoundError) as error:
                raise self._corrupt(spec.name, sample, shard, str(error)) from error
            if not found:
                raise self._corrupt(spec.name, sample, shard, "its bytes changed")
            checked[sample] = True

        self._do_all(read_one, jobs)

    def _do_all(self, do: Callable[..., None], jobs: Sequence[tuple[int, ...]]) -> None:
        """Several jobs at a time; the first that fails ends the others."""
        has_failed = Event()

        def work(jobs: Sequence[tuple[int, ...]]) -> None:
            for job in jobs:
                if has_failed.is_set():
                    return
                try:
                    do(*job)
                except BaseException:
                    has_failed.set()
                    raise

        if len(jobs) == 1:
            work(jobs)
            return
        at_once = (self._copy or self._storage).parallel_reads
        list(self._threads().map(work, (jobs[turn::at_once] for turn in range(at_once))))

    def _threads(self) -> ThreadPoolExecutor:
        # A forked process has its parent's pool without its threads, and would wait for ever.
        if self._pool is None or self._pool[0] != os.getpid():
            threads = ThreadPoolExecutor(self._storage.parallel_reads, "unipt-read")
            self._pool = os.getpid(), threads
        return self._pool[1]

    def _corrupt(self, stream: str, sample: int, shard: int, what: str) -> CorruptCacheError:
        path = self._storage.path
        return CorruptCacheError(
            f"{path}: sample {sample} of stream {stream!r} (shard {shard}): {what}. "
            f"Run `unipt repair {path}`."
        )


def _has_crc(data: memoryview, crc: int) -> bool:
    return crc32c_of(np.frombuffer(data, np.uint8)) == crc
