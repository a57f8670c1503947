"""Reading random samples: ours, a raw numpy memory map of the same bytes, and zarr-python.

BERT-base-sized samples (13 layers x 768, float16) of 16 to 32 tokens, page cache warm. zarr-python
reads the same numbers from chunks of 32 rows, about one sample, which suits it best; from our
own chunks of a whole shard it would read 128 MB for every slice.
Targets: at least 0.6 of the memory map and at least 10 times zarr-python.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from report import Figure, Rounds, parser, show

from cache_schema import (
    BackboneSpec,
    CacheWriter,
    FeatureCache,
    Identity,
    LayerSpec,
    LayerStatistics,
    Manifest,
    Ragged,
    ShardContents,
    SplitSpec,
    StreamContents,
    StreamSpec,
)

LAYERS, WIDTH, SAMPLES_PER_SHARD, BATCH = 13, 768, 280, 64


def build(path: str | Path, num_samples: int) -> np.ndarray:
    """Write a cache of random numbers; the lengths of its samples."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(16, 33, num_samples)
    layers = tuple(LayerSpec(index=i, module=f"layer.{i}", final_norm=None) for i in range(LAYERS))
    manifest = Manifest(
        unipt_version="benchmark",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        backbone=BackboneSpec(
            name="random",
            source="huggingface",
            model="random",
            revision=None,
            architecture="none",
            num_parameters=0,
        ),
        identity=Identity(features={}, data={}),
        streams=(StreamSpec(name="tokens", width=WIDTH, layers=layers),),
        encoding="float16",
        splits=(SplitSpec(name="train", start=0, stop=num_samples),),
        shard_starts=tuple(range(0, num_samples, SAMPLES_PER_SHARD)),
        num_samples=num_samples,
    )
    writer = CacheWriter.create(path, manifest)
    statistics = LayerStatistics(absmax=(1.0,) * LAYERS, mean_square=(1.0,) * LAYERS)
    for shard in writer.missing_shards():
        samples = np.array(manifest.shard_samples(shard))
        rows = int(lengths[samples].sum())
        values = rng.integers(0, 2**14, (rows, LAYERS, WIDTH), dtype=np.uint16).view(np.float16)
        stream = StreamContents(Ragged.from_lengths(values, lengths[samples]), statistics)
        writer.write_shard(shard, ShardContents(samples, {"tokens": stream}))
    return lengths


def rechunked(path: Path, values: np.ndarray) -> zarr.Array[Any]:
    """The same numbers as zarr-python likes them: small chunks, no codec."""
    array = zarr.create_array(
        path,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(32, *values.shape[1:]),
        compressors=None,
    )
    array[...] = values
    return array


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=2800, help="samples in the cache (2800)")
    options.add_argument("--folder", default=None, help="where to put the cache")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "cache"
        lengths = build(path, args.samples)
        show(measure(path, lengths, args.repeats), as_json=args.json)
    return 0


def measure(path: Path, lengths: np.ndarray, repeats: int) -> list[Figure]:
    cache = FeatureCache.open(path)
    order = np.random.default_rng(1).permutation(len(lengths))
    batches = np.array_split(order, len(order) // BATCH)
    sample_bytes = lengths * LAYERS * WIDTH * 2
    shards = range(cache.manifest.num_shards)
    maps = [
        np.memmap(
            path / f"shards/{cache.receipts[s].attempt}/tokens/values/c/0/0/0",
            np.float16,
            "r",
            shape=cache.receipts[s].arrays["tokens/values"].shape,
        )
        for s in shards
    ]
    arrays = [rechunked(path.parent / f"zarr-{s}", maps[s]) for s in shards]
    starts = np.concatenate(
        [np.cumsum(part) - part for part in np.array_split(lengths, range(280, len(lengths), 280))]
    )

    def slices(sources: Sequence[Any], parts: Sequence[np.ndarray]) -> float:
        begun, count = time.perf_counter(), 0
        for batch in parts:
            out = np.empty((int(lengths[batch].sum()), LAYERS, WIDTH), np.float16)
            filled = 0
            for sample in batch.tolist():
                shard, rows = sample // SAMPLES_PER_SHARD, int(lengths[sample])
                start = int(starts[sample])
                out[filled : filled + rows] = sources[shard][start : start + rows]
                filled += rows
            count += int(sample_bytes[batch].sum())
        return count / 1e9 / (time.perf_counter() - begun)

    def ours() -> float:
        begun, count = time.perf_counter(), 0
        for batch in batches:
            cache.gather(batch)
            count += int(sample_bytes[batch].sum())
        return count / 1e9 / (time.perf_counter() - begun)

    def memory_map() -> float:
        return slices(maps, batches)

    def zarr_python() -> float:
        return slices(arrays, batches[:4])  # slow, and steady: a few batches say enough

    first = ours()  # every sample's checksum is computed in this pass
    speed = Rounds({"ours": ours, "memmap": memory_map, "zarr": zarr_python}, repeats)
    return [
        Figure("gather/unipt", speed["ours"], "GB/s"),
        Figure("gather/unipt, first epoch with checksums", first, "GB/s"),
        Figure("gather/numpy memory map", speed["memmap"], "GB/s"),
        Figure("gather/zarr-python slices", speed["zarr"], "GB/s"),
        Figure("gather/unipt : memory map", speed.ratio("ours", "memmap"), "x", ">= 0.6"),
        Figure("gather/unipt : zarr-python", speed.ratio("ours", "zarr"), "x", ">= 10"),
    ]


if __name__ == "__main__":
    sys.exit(main())
