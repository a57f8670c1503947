"""Caches of several streams, stored inputs and targets, written from the numbers of a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from small_caches import make_manifest
from training_caches import SPLITS

from cache_schema import (
    CacheWriter,
    FeatureCache,
    LayerSpec,
    LayerStatistics,
    Ragged,
    ShardContents,
    SplitSpec,
    StreamContents,
    StreamSpec,
    TargetSpec,
    to_stored,
)

COUNT = sum(SPLITS.values())


@dataclass
class States:
    """Hidden states of one stream: (rows, layers, width), and rows of each sample."""

    values: torch.Tensor
    lengths: np.ndarray
    layers: Sequence[int]
    axes: tuple[str, ...] = ()
    grid: np.ndarray | None = None

    @classmethod
    def random(
        cls, lengths: np.ndarray, layers: Sequence[int], width: int, *, seed: int, **options
    ) -> States:
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(int(lengths.sum()), len(layers), width, generator=generator)
        return cls(values, lengths, layers, **options)


@dataclass
class Contents:
    """What a cache of `COUNT` samples holds."""

    streams: Mapping[str, States]
    targets: Mapping[str, tuple[TargetSpec, Ragged | np.ndarray]] = field(default_factory=dict)
    inputs: Mapping[str, Ragged] = field(default_factory=dict)
    views: int = 1


def write(path: Path, contents: Contents, samples_per_shard: int = 20) -> FeatureCache:
    """Write and open a cache with the splits of `training_caches`."""
    stops = np.cumsum(list(SPLITS.values())).tolist()
    manifest = make_manifest(
        np.ones(COUNT, int),
        samples_per_shard=samples_per_shard,
        targets=tuple(spec for spec, _ in contents.targets.values()),
        splits=tuple(
            SplitSpec(name=name, start=stop - size, stop=stop, views=contents.views)
            for (name, size), stop in zip(SPLITS.items(), stops, strict=True)
        ),
    ).model_copy(
        update={
            "streams": tuple(_spec(name, states) for name, states in contents.streams.items()),
            "inputs": tuple(contents.inputs),
        }
    )
    writer = CacheWriter.create(path, manifest)
    for shard in writer.missing_shards():
        samples = np.array(manifest.shard_samples(shard))
        parts = {name: _part(states, samples) for name, states in contents.streams.items()}
        taken = {name: _take(values, samples) for name, (_, values) in contents.targets.items()}
        inputs = {name: values.take(samples) for name, values in contents.inputs.items()}
        writer.write_shard(
            shard, ShardContents(ids=samples, streams=parts, inputs=inputs, targets=taken)
        )
    return FeatureCache.open(path)


def _spec(name: str, states: States) -> StreamSpec:
    layers = [LayerSpec(index=i, module=f"{name}.{i}", final_norm=None) for i in states.layers]
    return StreamSpec(
        name=name, width=states.values.shape[2], layers=tuple(layers), axes=states.axes
    )


def _part(states: States, samples: np.ndarray) -> StreamContents:
    rows = Ragged.from_lengths(np.arange(len(states.values)), states.lengths).take(samples)
    part = states.values[rows.values]
    statistics = LayerStatistics(
        absmax=tuple(part.abs().amax((0, 2)).tolist()),
        mean_square=tuple(part.square().mean((0, 2)).tolist()),
    )
    grid = None if states.grid is None else states.grid[samples]
    return StreamContents(Ragged(to_stored(part), rows.offsets), statistics, grid)


def _take(values: Ragged | np.ndarray, samples: np.ndarray) -> Ragged | np.ndarray:
    return values.take(samples) if isinstance(values, Ragged) else values[samples]
