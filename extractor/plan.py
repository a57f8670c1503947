"""What an extraction will make and cost, before anything runs: samples, shards, bytes, time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import get_args

import numpy as np
import torch
from pydantic import JsonValue

from cache_schema import (
    EncodingName,
    FingerprintMismatchError,
    Identity,
    Manifest,
    Progress,
    UnreadableSample,
    encoding,
)

from .backbones.base import Backbone
from .config import DEFAULT_ENCODING, ExtractConfig
from .samples import NumberedSamples
from .sizes import Sizing, best_within
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
    def num_bytes(self) -> int:
        """Bytes of all arrays with their checksums, exact."""
        return self.totals.encodings[self.manifest.encoding]

    @property
    def bytes_per_sample(self) -> float:
        """Average."""
        return self.num_bytes / self.manifest.num_samples


def make_plan(
    config: ExtractConfig,
    backbone: Backbone,
    samples: NumberedSamples,
    path: str,
    request: dict[str, JsonValue],
    progress: Progress,
) -> ExtractionPlan:
    """Read and tokenise everything once and cut it into shards.

    Args:
        config: The extraction.
        backbone: As loaded.
        samples: All of them.
        path: Of the cache.
        request: What was asked for, recorded so that a second run is recognised at once.
        progress: Where to report.

    Raises:
        StorageError: No encoding fits in `config.fit_in`.
    """
    total = samples.num_samples
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
    sizing = Sizing(
        samples,
        backbone.streams,
        lengths,
        backbone.stored_inputs,
        input_bytes,
        config.shard_bytes,
    )
    sizes = {name: sizing.of(name) for name in get_args(EncodingName)}
    totals = Totals(
        num_tokens=sum(int(counts.sum()) for counts in lengths.values()),
        num_truncated=num_truncated,
        num_unreadable=len(failures),
        encodings={name: size.num_bytes for name, size in sizes.items()},
    )
    stored = _chosen_encoding(config, totals, path)
    source = samples.source
    manifest = Manifest(
        unipt_version=version("unipt"),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        backbone=backbone.spec,
        identity=_identity(stored, backbone, samples),
        streams=backbone.streams,
        encoding=stored,
        splits=samples.splits,
        targets=tuple(target.spec for target in source.targets),
        roles=tuple(source.inputs),
        inputs=backbone.stored_inputs,
        shard_starts=sizes[stored].shard_starts,
        num_samples=total,
        num_skipped=len(source.skipped),
        execution={
            "request": request,
            "device": str(backbone.device),
            "totals": totals.model_dump(),
        },
    )
    return ExtractionPlan(manifest, totals, tuple(failures))


def plan_like(
    present: Manifest,
    config: ExtractConfig,
    backbone: Backbone,
    samples: NumberedSamples,
    path: str,
) -> ExtractionPlan | None:
    """The plan by which the cache at `path` was begun; None if its manifest does not tell.

    Raises:
        FingerprintMismatchError: It is a cache of something else; names what differs.
        StorageError: No encoding fits in `config.fit_in`.
    """
    totals = Totals.of(present)
    if totals is None:
        return None
    identity = _identity(_chosen_encoding(config, totals, path), backbone, samples)
    if present.identity != identity:
        raise FingerprintMismatchError(path, identity.differences(present.identity))
    if present.inputs != backbone.stored_inputs:
        difference = f"inputs: {list(backbone.stored_inputs)} here, {list(present.inputs)} there"
        raise FingerprintMismatchError(path, [difference])
    return ExtractionPlan(present, totals)


def _chosen_encoding(config: ExtractConfig, totals: Totals, path: str) -> EncodingName:
    if config.fit_in is None:
        return config.encoding or DEFAULT_ENCODING
    return best_within(config.fit_in, totals.encodings, path)


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


def _identity(stored: EncodingName, backbone: Backbone, samples: NumberedSamples) -> Identity:
    data = {**samples.source.identity, "views": samples.num_views}
    if samples.num_views > 1:
        data["augmentation"] = samples.augmentation.identity
    return Identity(features={**backbone.identity, **encoding(stored).identity}, data=data)
