"""What an extraction will make and cost, before anything runs: samples, shards, bytes, time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import torch
from pydantic import JsonValue

from cache_schema import (
    Encoding,
    Identity,
    Manifest,
    Progress,
    SplitSpec,
    encoding,
    open_storage,
)

from .backbones.base import Backbone, Prepared
from .config import ExtractConfig
from .inputs.source import SampleSource

_READ_AT_ONCE = 2048  # samples; keeps the tokenizer's threads busy and memory small
_PROBE_SECONDS = 4.0


@dataclass(frozen=True)
class ExtractionPlan:
    """What will be written.

    Attributes:
        manifest: The cache's manifest.
        lengths: (samples,) tokens of each sample.
        num_bytes: Bytes of all arrays with their checksums, exact.
        num_truncated: Samples longer than the backbone takes.
        free_bytes: Free space where the cache will lie; None on stores without a limit.
    """

    manifest: Manifest
    lengths: np.ndarray
    num_bytes: int
    num_truncated: int
    free_bytes: int | None

    @property
    def bytes_per_sample(self) -> float:
        """Average."""
        return self.num_bytes / self.manifest.num_samples

    def missing_bytes(self, missing_shards: list[int]) -> int:
        """About how many bytes these shards take: their share of the rows."""
        rows = sum(int(self.lengths[_slice(self.manifest, s)].sum()) for s in missing_shards)
        return int(self.num_bytes * rows / max(1, int(self.lengths.sum())))


def make_plan(
    config: ExtractConfig,
    backbone: Backbone,
    source: SampleSource,
    path: str,
    request: dict[str, JsonValue],
    progress: Progress,
) -> ExtractionPlan:
    """Read and tokenise everything once and cut it into shards.

    Args:
        config: The extraction.
        backbone: As loaded.
        source: The samples.
        path: Where the cache will lie.
        request: What was asked for, recorded so that a second run is recognised at once.
        progress: Where to report.
    """
    total = sum(source.splits.values())
    lengths = np.zeros(total, dtype=np.int64)
    num_truncated = done = 0
    with progress.meter("read", total, "samples") as meter:
        for prepared in _prepare_all(backbone, source):
            lengths[done : done + prepared.num_samples] = prepared.lengths
            num_truncated += prepared.num_truncated
            done += prepared.num_samples
            meter.advance(prepared.num_samples)
    stored = encoding(config.encoding)
    row_bytes = sum(len(s.layers) * s.width for s in backbone.streams) * stored.itemsize
    splits = _splits(source)
    manifest = Manifest(
        unipt_version=version("unipt"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        backbone=backbone.spec,
        identity=_identity(config, backbone, source),
        streams=backbone.streams,
        encoding=config.encoding,
        splits=splits,
        targets=tuple(target.spec for target in source.targets),
        inputs=backbone.stored_inputs,
        shard_starts=_shard_starts(splits, lengths * row_bytes, config.shard_bytes),
        num_samples=total,
        num_skipped=len(source.skipped),
        execution={"request": request, "device": str(backbone.device)},
    )
    num_bytes = _exact_bytes(manifest, source, lengths, stored)
    return ExtractionPlan(
        manifest, lengths, num_bytes, num_truncated, open_storage(path).free_bytes()
    )


def probe_seconds(
    backbone: Backbone, source: SampleSource, plan: ExtractionPlan, batch_size: int
) -> float:
    """How long the forward passes of the whole plan take, judged by a few seconds of them."""
    split = next(iter(source.splits))
    count = min(source.splits[split], 16 * batch_size)
    prepared = backbone.prepare(source.samples(split, 0, count))
    order = np.argsort(-prepared.lengths, kind="stable")
    batches = np.array_split(order, max(1, count // batch_size))
    backbone.run(prepared, batches[0])  # the first pass also sets things up
    rows, started = 0, time.perf_counter()
    # From both ends, so that long and short samples weigh alike.
    for turn in range(len(batches)):
        batch = batches[turn // 2 if turn % 2 == 0 else -1 - turn // 2]
        backbone.run(prepared, batch)
        rows += int(prepared.lengths[batch].sum())
        if backbone.device.type == "cuda":
            torch.cuda.synchronize(backbone.device)
        if time.perf_counter() - started > _PROBE_SECONDS:
            break
    return (time.perf_counter() - started) * int(plan.lengths.sum()) / rows


def _prepare_all(backbone: Backbone, source: SampleSource) -> Iterator[Prepared]:
    for split, count in source.splits.items():
        for start in range(0, count, _READ_AT_ONCE):
            samples = source.samples(split, start, min(count, start + _READ_AT_ONCE))
            yield backbone.prepare(samples)


def _splits(source: SampleSource) -> tuple[SplitSpec, ...]:
    specs, start = [], 0
    for name, count in source.splits.items():
        specs.append(SplitSpec(name=name, start=start, stop=start + count))
        start += count
    return tuple(specs)


def _identity(config: ExtractConfig, backbone: Backbone, source: SampleSource) -> Identity:
    return Identity(
        features={**backbone.identity, "encoding": config.encoding},
        data=dict(source.identity),
    )


def _shard_starts(
    splits: tuple[SplitSpec, ...], sample_bytes: np.ndarray, shard_bytes: int
) -> tuple[int, ...]:
    """Fill shards up to `shard_bytes`; none crosses a split."""
    starts = []
    for split in splits:
        filled = shard_bytes  # a split begins a shard
        for sample in range(split.start, split.stop):
            if filled and filled + sample_bytes[sample] > shard_bytes:
                starts.append(sample)
                filled = 0
            filled += int(sample_bytes[sample])
    return tuple(starts)


def _slice(manifest: Manifest, shard: int) -> slice:
    samples = manifest.shard_samples(shard)
    return slice(samples.start, samples.stop)


def _exact_bytes(
    manifest: Manifest, source: SampleSource, lengths: np.ndarray, stored: Encoding
) -> int:
    """Bytes of every array and its checksum, as `cache_schema` writes them."""
    rows, samples, shards = int(lengths.sum()), manifest.num_samples, manifest.num_shards
    numbers = rows * sum(len(s.layers) * s.width for s in manifest.streams) * stored.itemsize
    offsets = 8 * (samples + shards)
    per_sample = samples * (8 + 4 + 4 * len(manifest.streams))  # id, view, one CRC per stream
    token_ids = rows * 4 * len(manifest.inputs)
    ragged = len(manifest.streams) + len(manifest.inputs)
    arrays = 3 + 2 * ragged
    targets = 0
    for target in source.targets:
        targets += sum(values.nbytes for values in target.values.values())
        targets += 0 if target.offsets is None else offsets
        arrays += 1 if target.offsets is None else 2
    checksums = 4 * shards * arrays
    return numbers + offsets * ragged + per_sample + token_ids + targets + checksums
