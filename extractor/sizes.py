"""What a cache takes in each encoding, exactly, and the most exact one that fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cache_schema import EncodingName, SplitSpec, StorageError, StreamSpec, encoding

from .inputs.targets import TargetData
from .report import size_text
from .samples import NumberedSamples

BY_EXACTNESS: tuple[EncodingName, ...] = ("float16", "int8", "int4")
"""What `fit_in` chooses from."""


@dataclass(frozen=True)
class CacheSize:
    """A cache in one encoding.

    Attributes:
        shard_starts: First sample of each shard.
        num_bytes: Bytes of all arrays with their checksums, exact.
    """

    shard_starts: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True, eq=False)
class Sizing:
    """What decides how large a cache is, but for its encoding.

    Attributes:
        samples: All of them.
        streams: Of the backbone.
        lengths: Stream name to the rows of each sample.
        stored_inputs: Names of the stored model inputs.
        input_bytes: Of their values.
        shard_bytes: Hidden states per shard.
    """

    samples: NumberedSamples
    streams: tuple[StreamSpec, ...]
    lengths: Mapping[str, np.ndarray]
    stored_inputs: tuple[str, ...]
    input_bytes: int
    shard_bytes: int

    def of(self, name: EncodingName) -> CacheSize:
        """The cache in this encoding."""
        sample_bytes = np.zeros(self.samples.num_samples, dtype=np.int64)
        for spec in self.streams:
            row_bytes = encoding(name).row_bytes(len(spec.layers), spec.width)
            sample_bytes += self.lengths[spec.name] * row_bytes
        starts = _shard_starts(self.samples.splits, sample_bytes, self.shard_bytes)
        num_bytes = int(sample_bytes.sum()) + self._other_bytes(name, len(starts))
        return CacheSize(starts, num_bytes)

    def _other_bytes(self, name: EncodingName, num_shards: int) -> int:
        """Of all arrays but the hidden states, and of every checksum, as shards hold them."""
        num_samples, streams = self.samples.num_samples, self.streams
        parts = sum(len(encoding(name).parts(spec.width)) for spec in streams)
        offsets = 8 * (num_samples + num_shards)
        grids = [4 * len(spec.axes) * num_samples for spec in streams if spec.axes]
        per_sample = num_samples * (8 + 4 + 4 * parts)  # id, view, CRC of each part
        ragged = len(streams) + len(self.stored_inputs)
        arrays = 3 + parts + len(self.stored_inputs) + ragged + len(grids)
        targets = 0
        for target in self.samples.source.targets:
            targets += sum(_target_bytes(target, split) for split in self.samples.splits)
            targets += 0 if target.offsets is None else offsets
            arrays += 1 if target.offsets is None else 2
        checksums = 4 * num_shards * arrays
        return self.input_bytes + offsets * ragged + sum(grids) + per_sample + targets + checksums


def best_within(limit: int, sizes: Mapping[EncodingName, int], path: str) -> EncodingName:
    """The most exact encoding in which a whole cache takes at most `limit` bytes.

    Args:
        limit: In bytes.
        sizes: Bytes of the cache in each encoding.
        path: Of the cache, for the error.

    Raises:
        StorageError: None does.
    """
    for name in BY_EXACTNESS:
        if sizes[name] <= limit:
            return name
    needed = ", ".join(f"{size_text(sizes[name])} as {name}" for name in BY_EXACTNESS)
    raise StorageError(
        f"{path}: needs {needed}; --fit-in allows {size_text(limit)}. "
        "Choose more room, fewer --layers, or a shorter --max-length."
    )


def _shard_starts(
    splits: tuple[SplitSpec, ...], sample_bytes: np.ndarray, shard_bytes: int
) -> tuple[int, ...]:
    """Fill shards up to `shard_bytes`; none crosses a split."""
    starts = []
    for split in splits:
        filled = 0
        for sample in range(split.start, split.stop):
            # A sample that cannot be read has no bytes; also before such ones a split begins.
            if sample == split.start or (filled and filled + sample_bytes[sample] > shard_bytes):
                starts.append(sample)
                filled = 0
            filled += int(sample_bytes[sample])
    return tuple(starts)


def _target_bytes(target: TargetData, split: SplitSpec) -> int:
    return target.values[split.name].nbytes * split.views
