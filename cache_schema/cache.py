"""Reading a cache: any samples in any order, as a `FeatureBatch`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .batch import FeatureBatch, RowLayout, StreamBatch
from .coding import tensor_dtype, to_stored
from .encodings import encoding
from .errors import (
    CacheError,
    CacheNotFoundError,
    CorruptCacheError,
    DamagedError,
    IncompleteCacheError,
)
from .local_copy import LocalCopy
from .manifest import Manifest, StreamSpec, TargetSpec
from .quantised import Scales
from .ragged import Ragged
from .reader import SampleReader
from .receipts import Receipt, UnreadableSample, finished_shards, read_receipt, read_receipts
from .storage import Storage, open_storage
from .writer import read_manifest


@dataclass(frozen=True)
class TargetColumn:
    """One target of every sample.

    Attributes:
        spec: What it is.
        values: (samples,) for plain kinds, else the values of all samples one after the other.
        offsets: (samples + 1,) for the ragged kinds `categories`, `numbers` and `string`, else
            None.
    """

    spec: TargetSpec
    values: np.ndarray
    offsets: np.ndarray | None = None

    def strings(self, samples: np.ndarray) -> list[str]:
        """The texts of some samples of the kind `string`; empty where missing."""
        assert self.offsets is not None, "only strings have offsets and no numbers"
        texts = Ragged(self.values.astype(np.uint8), self.offsets)
        return [texts[sample].tobytes().decode() for sample in samples.tolist()]


class FeatureCache:
    """A cache opened for reading. Use `open`.

    Samples are numbered 0 to `num_samples` - 1 over all splits. A sample's bytes are checked
    against their CRC the first time this object reads them; those from an object store or of a
    local copy every time.
    """

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest,
        receipts: dict[int, Receipt],
        local_copy: LocalCopy | None = None,
    ) -> None:
        self.storage = storage
        self.manifest = manifest
        self.receipts = receipts
        self.local_copy = local_copy
        self._encoding = encoding(manifest.encoding)
        self._reader = SampleReader(storage, manifest, receipts, local_copy)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        allow_partial: bool = False,
        local_copy: str | Path | None = None,
    ) -> FeatureCache:
        """Open a cache.

        Args:
            path: Local folder or URL.
            allow_partial: Use the finished shards of a cache that is still being written.
            local_copy: Folder that keeps the hidden states which were read once, for a cache on an
                object store or a slow file server; without effect on the cache's own disk.

        Raises:
            CacheNotFoundError: There is no cache at `path`.
            IncompleteCacheError: Shards are missing, and `allow_partial` is not set.
            CorruptCacheError: A receipt is damaged or belongs to another cache.
            StorageError: The cache cannot be reached, or the copy not be written.
        """
        storage = open_storage(path)
        manifest = read_manifest(storage)
        if manifest is None:
            raise CacheNotFoundError(path)
        finished = [s for s in sorted(finished_shards(storage)) if s < manifest.num_shards]
        if not finished or (len(finished) < manifest.num_shards and not allow_partial):
            raise IncompleteCacheError(path, finished=len(finished), total=manifest.num_shards)
        receipts = read_receipts(storage, finished, partial(_checked_receipt, manifest))
        copy = None
        if local_copy is not None:
            copy = LocalCopy.beside(storage, Path(local_copy), manifest.identity.fingerprint)
        return cls(storage, manifest, receipts, copy)

    def __reduce__(self) -> tuple[type[FeatureCache], tuple[object, ...]]:
        return FeatureCache, (self.storage, self.manifest, self.receipts, self.local_copy)

    @property
    def path(self) -> str:
        """Where the cache lies, as it was opened."""
        return self.storage.path

    @property
    def fingerprint(self) -> str:
        """sha256 of everything that determines the stored numbers."""
        return self.manifest.identity.fingerprint

    @property
    def num_samples(self) -> int:
        """Samples of all splits, finished or not."""
        return self.manifest.num_samples

    @property
    def sides(self) -> tuple[FeatureCache, ...]:
        """The caches that are read: itself."""
        return (self,)

    @property
    def split_names(self) -> list[str]:
        """Names of the splits, in stored order."""
        return self.manifest.split_names

    @property
    def is_complete(self) -> bool:
        """Whether every shard is finished."""
        return len(self.receipts) == self.manifest.num_shards

    def __len__(self) -> int:
        return self.num_samples

    def __getitem__(self, sample: int | slice) -> FeatureBatch:
        if isinstance(sample, slice):
            return self.gather(range(len(self))[sample])
        if not -len(self) <= sample < len(self):
            raise IndexError(f"sample {sample}: the cache has {len(self)}")
        return self.gather([sample % len(self)])

    @cached_property
    def finished_samples(self) -> np.ndarray:
        """(samples,) bool: whether a sample's shard is finished and its source could be read."""
        # Every sample that was read has a row in every stream.
        first = self.manifest.streams[0].name
        finished: np.ndarray = self._reader.index[first].lengths > 0
        return finished

    @property
    def unreadable(self) -> list[UnreadableSample]:
        """Samples of finished shards without hidden states, and why."""
        return [
            found for shard in sorted(self.receipts) for found in self.receipts[shard].unreadable
        ]

    def split(self, name: str) -> np.ndarray:
        """Finished samples of a split, (n,) int64, each source row once.

        Where rows have augmented views, these are the rows as they are; view v of sample s is
        sample s + v, for v below `manifest.split(name).views`.

        Raises:
            CacheError: There is no such split, or none of its samples is finished.
        """
        try:
            split = self.manifest.split(name)
        except KeyError as error:
            raise CacheError(f"{self.path}: {error.args[0]}.") from error
        samples: np.ndarray = np.arange(split.start, split.stop, split.views)
        # A row counts when all of its views do, so that any of them can be drawn.
        views = samples[:, None] + np.arange(split.views)
        samples = samples[self.finished_samples[views].all(axis=1)]
        if samples.size == 0:
            raise CacheError(f"{self.path}: split {name!r} has no finished sample yet.")
        return samples

    def lengths(self, stream: str) -> np.ndarray:
        """(samples,) int64: tokens of each sample in a stream; 0 where unfinished."""
        lengths: np.ndarray = self._reader.index[stream].lengths
        return lengths

    def target(self, name: str) -> TargetColumn:
        """One target of all samples; unfinished ones hold -1 or NaN.

        Raises:
            CacheError: There is no such target.
        """
        try:
            spec = self.manifest.target(name)
        except KeyError as error:
            raise CacheError(
                f"{self.path}: {error.args[0]}. Extract again with --target {name}."
            ) from error
        if spec.kind in ("categories", "numbers", "string"):
            read = partial(self._ragged, name=f"targets/{name}")
            parts = list(self._reader.of_shards(read, self._all_shards()))
            lengths = np.concatenate([part.lengths for part in parts])
            joined = Ragged.from_lengths(np.concatenate([p.values for p in parts]), lengths)
            return TargetColumn(spec, joined.values, joined.offsets)
        return TargetColumn(spec, self._column(f"targets/{name}", spec))

    def source_rows(self) -> np.ndarray:
        """(samples,) int64: row in the source data of each sample; -1 where unfinished."""
        return self._column("samples/id", None)

    def input(self, name: str, samples: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """A stored model input (such as `token_ids`) of some samples.

        Raises:
            CacheError: There is no such input.
        """
        # Every shard holds the same ones.
        arrays = next(iter(self.receipts.values())).arrays
        stored = sorted({key.split("/")[1] for key in arrays if key.startswith("inputs/")})
        if name not in stored:
            raise CacheError(
                f"{self.path}: no input {name!r}, the cache has {stored!r}. Choose one of those."
            )
        found: dict[int, Ragged] = {}
        values = []
        for sample in np.asarray(samples).tolist():
            shard, local = self._locate(sample)
            if shard not in found:
                found[shard] = self._ragged(shard, f"inputs/{name}")
            column = found[shard]
            values.append(column[local])
        return values

    def gather(
        self,
        samples: Sequence[int] | np.ndarray,
        *,
        layers: Sequence[int] | None = None,
        pin_memory: bool = False,
        decode: bool = True,
    ) -> FeatureBatch:
        """Hidden states of any samples, in the order asked for.

        Args:
            samples: Sample numbers, repeats allowed, at least one.
            layers: Positions in each stream's stored layers; None for all.
            pin_memory: Put the values into page-locked memory, for copies to a GPU.
            decode: False leaves quantised numbers as they are stored, until `FeatureBatch.to`
                brings them to the device where they are needed.

        Returns:
            CPU tensors in the stored floating dtype, float32 of a quantised cache, without
            targets.

        Raises:
            IndexError: A sample is out of range or unfinished.
            CorruptCacheError: The stored bytes of a sample are not what was written.
        """
        found = np.asarray(samples)
        if found.ndim != 1 or found.size == 0 or not np.issubdtype(found.dtype, np.integer):
            hint = " Of a mask they are np.flatnonzero(mask)." if found.dtype == bool else ""
            raise IndexError(f"gather: found {samples!r}, needed one or more sample numbers.{hint}")
        chosen = found.astype(np.int64)
        if chosen.min() < 0 or chosen.max() >= len(self):
            raise IndexError(f"gather: samples must lie in 0..{len(self) - 1}")
        if not self.finished_samples[chosen].all():
            missing = chosen[~self.finished_samples[chosen]]
            raise IndexError(f"gather: sample {missing[0]} is not finished, or was unreadable")
        streams = {
            spec.name: self._gather_stream(spec, chosen, layers, pin_memory)
            for spec in self.manifest.streams
        }
        batch = FeatureBatch(streams, torch.from_numpy(chosen.copy()))
        return batch.to("cpu") if decode and self._encoding.bits else batch

    def _gather_stream(
        self,
        spec: StreamSpec,
        chosen: np.ndarray,
        layers: Sequence[int] | None,
        pin_memory: bool,
    ) -> StreamBatch:
        layout = RowLayout.from_lengths(self._reader.index[spec.name].lengths[chosen])
        parts = []
        for part in self._encoding.parts(spec.width):
            shape = (layout.num_rows, len(spec.layers), part.length)
            numbers = torch.empty(shape, dtype=tensor_dtype(part.dtype), pin_memory=pin_memory)
            self._reader.read_samples(spec, part.name, chosen, to_stored(numbers))
            parts.append(numbers if layers is None else numbers[:, list(layers)])
        bits = self._encoding.bits
        scales = None if bits is None else Scales(parts[1], bits, spec.width)
        return StreamBatch(parts[0], layout, self._grid(spec, chosen), scales)

    def _grid(self, spec: StreamSpec, chosen: np.ndarray) -> Tensor | None:
        grids = self._grids.get(spec.name)
        return None if grids is None else torch.from_numpy(grids[chosen])

    @cached_property
    def _grids(self) -> dict[str, np.ndarray]:
        grids = {}
        for spec in self.manifest.streams:
            if spec.axes:
                grid = np.zeros((self.num_samples, len(spec.axes)), np.int64)
                for where, part in self._reader.of_each_shard(f"{spec.name}/grid"):
                    grid[where] = part
                grids[spec.name] = grid
        return grids

    def _all_shards(self) -> range:
        return range(self.manifest.num_shards)

    def _locate(self, sample: int) -> tuple[int, int]:
        shard = int(self._reader.shards_of(np.array([sample]))[0])
        return shard, sample - self.manifest.shard_starts[shard]

    def _column(self, name: str, spec: TargetSpec | None) -> np.ndarray:
        """An array with one value for each sample; -1 or NaN where unfinished."""
        is_number = spec is not None and spec.kind == "number"
        column = np.full(self.num_samples, np.nan if is_number else -1)
        for where, part in self._reader.of_each_shard(name):
            column[where] = part
        return column

    def _ragged(self, shard: int, name: str) -> Ragged:
        if shard in self.receipts:
            return Ragged(
                self._reader.read_array(shard, f"{name}/values"),
                self._reader.read_array(shard, f"{name}/offsets"),
            )
        count = len(self.manifest.shard_samples(shard))
        return Ragged(np.zeros(0, np.int64), np.zeros(count + 1, np.int64))


def _checked_receipt(manifest: Manifest, storage: Storage, shard: int) -> Receipt:
    try:
        receipt = read_receipt(storage, shard)
    except DamagedError as error:
        raise CorruptCacheError(
            f"{storage.path}: receipt of shard {shard} is damaged. Run `unipt repair "
            f"{storage.path}`."
        ) from error
    if receipt is None:
        raise CorruptCacheError(
            f"{storage.path}: receipt of shard {shard} is empty. Run `unipt repair {storage.path}`."
        )
    if receipt.fingerprint != manifest.identity.fingerprint:
        raise CorruptCacheError(
            f"{storage.path}: shard {shard} was written for cache {receipt.fingerprint[:12]}, "
            f"this is {manifest.identity.fingerprint[:12]}. Run `unipt repair {storage.path}`."
        )
    return receipt
