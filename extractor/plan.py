"""What an extraction will make and cost, before anything runs: samples, shards, bytes, time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
import torch
from pydantic import JsonValue

from cache_schema import (
    Identity,
    Manifest,
    Progress,
    SplitSpec,
    UnreadableSample,
    encoding,
)

from .backbones.base import Backbone
from .config import ExtractConfig
from .inputs.targets import TargetData
from .samples import NumberedSamples
from .totals import Totals

_READ_AT_ONCE = 2048  # samples; keeps the tokenizer's threads busy and memory small
_PROBE_SECONDS = 4.0


@dataclass(frozen=True)
class ExtractionPlan:
    """What will be written.

    Attributes:
        manifest: The cache's manifest.
        totals: Of the whole cache.
        failures: Samples that cannot be read, as far as is known without decoding them.
    """

    manifest: Manifest
    totals: Totals
    failures: tuple[UnreadableSample, ...] = ()

    @property
    def bytes_per_sample(self) -> float:
        """Average."""
        return self.totals.num_bytes / self.manifest.num_samples


def make_plan(
    config: ExtractConfig,
    backbone: Backbone,
    samples: NumberedSamples,
    request: dict[str, JsonValue],
    progress: Progress,
) -> ExtractionPlan:
    """Read and tokenise everything once and cut it into shards.

    Args:
        config: The extraction.
        backbone: As loaded.
        samples: All of them.
        request: What was asked for, recorded so that a second run is recognised at once.
        progress: Where to report.
    """
    total = samples.num_samples
    stored = encoding(config.encoding)
    lengths = {s.name: np.zeros(total, dtype=np.int64) for s in backbone.streams}
    failures: list[UnreadableSample] = []
    num_truncated = input_bytes = 0
    with progress.meter("read", total, "samples") as meter:
        for block in samples.blocks(_READ_AT_ONCE):
            found = backbone.measure(samples.read(block))
            for name, counts in found.lengths.items():
                lengths[name][block.start : block.stop] = counts
            failures += unreadable(block, samples.ids(block), found.failures)
            num_truncated += int(found.truncated.sum())
            input_bytes += found.input_bytes
            meter.advance(len(block))
    row_bytes = {s.name: len(s.layers) * s.width * stored.itemsize for s in backbone.streams}
    sample_bytes: np.ndarray = sum(
        (lengths[name] * row_bytes[name] for name in lengths), np.zeros(total, dtype=np.int64)
    )
    splits = samples.splits
    source = samples.source
    shard_starts = _shard_starts(splits, sample_bytes, config.shard_bytes)
    other_bytes = _other_bytes(backbone, samples, len(shard_starts), input_bytes)
    totals = Totals(
        num_tokens=sum(int(counts.sum()) for counts in lengths.values()),
        num_bytes=int(sample_bytes.sum()) + other_bytes,
        num_truncated=num_truncated,
    )
    manifest = Manifest(
        unipt_version=version("unipt"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        backbone=backbone.spec,
        identity=identity_of(config, backbone, samples),
        streams=backbone.streams,
        encoding=config.encoding,
        splits=splits,
        targets=tuple(target.spec for target in source.targets),
        roles=tuple(source.inputs),
        inputs=backbone.stored_inputs,
        shard_starts=shard_starts,
        num_samples=total,
        num_skipped=len(source.skipped),
        execution={
            "request": request,
            "device": str(backbone.device),
            "totals": totals.model_dump(),
        },
    )
    return ExtractionPlan(manifest, totals, tuple(failures))


def plan_of(manifest: Manifest) -> ExtractionPlan | None:
    """The plan by which a cache was begun; None if its manifest does not tell."""
    totals = Totals.of(manifest)
    return None if totals is None else ExtractionPlan(manifest, totals)


def unreadable(
    samples: range, ids: np.ndarray, failures: Mapping[int, str]
) -> tuple[UnreadableSample, ...]:
    """Name the samples of a block that could not be read.

    Args:
        samples: Of the block.
        ids: Source row of each.
        failures: Position in the block to the reason.
    """
    return tuple(
        UnreadableSample(sample=samples[at], row=int(ids[at]), reason=reason)
        for at, reason in sorted(failures.items())
    )


def probe_seconds(
    backbone: Backbone, samples: NumberedSamples, plan: ExtractionPlan, batch_size: int
) -> float:
    """How long the forward passes of the whole plan take, judged by a few seconds of them."""
    prepared = backbone.prepare(samples.read(next(samples.blocks(16 * batch_size))))
    order = prepared.longest_first()
    if not len(order):
        return 0.0
    batches = np.array_split(order, max(1, len(order) // batch_size))
    backbone.run(prepared, batches[0])  # the first pass also sets things up
    rows, started = 0, time.perf_counter()
    # From both ends, so that long and short samples weigh alike.
    for turn in range(len(batches)):
        batch = batches[turn // 2 if turn % 2 == 0 else -1 - turn // 2]
        backbone.run(prepared, batch)
        rows += int(prepared.rows[batch].sum())
        if backbone.device.type == "cuda":
            torch.cuda.synchronize(backbone.device)
        if time.perf_counter() - started > _PROBE_SECONDS:
            break
    return (time.perf_counter() - started) * plan.totals.num_tokens / rows


def identity_of(config: ExtractConfig, backbone: Backbone, samples: NumberedSamples) -> Identity:
    """What determines the numbers that are stored."""
    data = {**samples.source.identity, "views": samples.num_views}
    if samples.num_views > 1:
        data["augmentation"] = samples.augmentation.identity
    return Identity(features={**backbone.identity, "encoding": config.encoding}, data=data)


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


def _other_bytes(
    backbone: Backbone, samples: NumberedSamples, shards: int, input_bytes: int
) -> int:
    """Bytes of all arrays but the hidden states, and of every checksum, as shards hold them."""
    streams, num_samples = backbone.streams, samples.num_samples
    offsets = 8 * (num_samples + shards)
    grids = [4 * len(s.axes) * num_samples for s in streams if s.axes]
    per_sample = num_samples * (8 + 4 + 4 * len(streams))  # id, view, CRC per stream
    ragged = len(streams) + len(backbone.stored_inputs)
    arrays = 3 + 2 * ragged + len(grids)
    targets = 0
    for target in samples.source.targets:
        targets += sum(_target_bytes(samples, target, split) for split in samples.splits)
        targets += 0 if target.offsets is None else offsets
        arrays += 1 if target.offsets is None else 2
    checksums = 4 * shards * arrays
    return input_bytes + offsets * ragged + sum(grids) + per_sample + targets + checksums


def _target_bytes(samples: NumberedSamples, target: TargetData, split: SplitSpec) -> int:
    return target.values[split.name].nbytes * split.views
