"""Small caches written through the real writer, from numbers chosen by the test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cache_schema import (
    BackboneSpec,
    CacheWriter,
    Identity,
    LayerSpec,
    LayerStatistics,
    Manifest,
    Ragged,
    ShardContents,
    SplitSpec,
    StreamContents,
    StreamSpec,
    TargetSpec,
    encode,
    encoding,
    to_stored,
)


def make_manifest(
    lengths: np.ndarray,
    *,
    num_layers: int = 3,
    width: int = 8,
    encoding_name: str = "float32",
    samples_per_shard: int = 4,
    targets: tuple[TargetSpec, ...] = (),
    splits: tuple[SplitSpec, ...] | None = None,
    seed: int = 0,
) -> Manifest:
    """A manifest for samples of these lengths in one stream named `tokens`."""
    layers = tuple(
        LayerSpec(index=i, module=f"layer.{i}", final_norm=None) for i in range(num_layers)
    )
    return Manifest(
        unipt_version="0",
        created="2026-01-01T00:00:00+00:00",
        backbone=BackboneSpec(
            name="test",
            source="huggingface",
            model="test",
            revision=None,
            architecture="Test",
            num_parameters=1,
        ),
        identity=Identity(features={"weights": "w", "width": width}, data={"rows": seed}),
        streams=(StreamSpec(name="tokens", width=width, layers=layers),),
        encoding=encoding_name,
        splits=splits or (SplitSpec(name="train", start=0, stop=len(lengths)),),
        targets=targets,
        inputs=("token_ids",),
        shard_starts=tuple(range(0, len(lengths), samples_per_shard)),
        num_samples=len(lengths),
    )


def states_of(lengths: np.ndarray, num_layers: int, width: int, seed: int = 0) -> torch.Tensor:
    """(rows, layers, width) float32 standard normal."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(int(lengths.sum()), num_layers, width, generator=generator)


def write_cache(
    path: Path,
    manifest: Manifest,
    states: torch.Tensor,
    lengths: np.ndarray,
    targets: dict[str, Ragged | np.ndarray] | None = None,
    shards: list[int] | None = None,
) -> None:
    """Write these hidden states (rows of all samples in order) shard by shard."""
    writer = CacheWriter.create(path, manifest)
    stored = encoding(manifest.encoding)
    ends = np.cumsum(lengths)
    for shard in writer.missing_shards() if shards is None else shards:
        samples = np.array(manifest.shard_samples(shard))
        rows = slice(ends[samples[0]] - lengths[samples[0]], ends[samples[-1]])
        encoded = encode(states[rows], stored)
        values, *scales = map(to_stored, encoded.parts)
        statistics = LayerStatistics(
            absmax=tuple(encoded.absmax_L.tolist()),
            mean_square=tuple(states[rows].square().mean((0, 2)).tolist()),
        )
        contents = ShardContents(
            ids=samples,
            streams={
                "tokens": StreamContents(
                    Ragged.from_lengths(values, lengths[samples]), statistics, None, *scales
                )
            },
            inputs={
                "token_ids": Ragged.from_lengths(
                    np.arange(rows.start, rows.stop, dtype=np.int32), lengths[samples]
                )
            },
            targets={
                name: c.take(samples) if isinstance(c, Ragged) else c[samples]
                for name, c in (targets or {}).items()
            },
        )
        writer.write_shard(shard, contents)
