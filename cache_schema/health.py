"""Looking after a cache: find every damaged byte, drop what is bad, remove what crashes left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .checksums import crc32c_of
from .claims import FOLDER as CLAIMS
from .claims import claim_folder
from .encodings import encoding
from .errors import CacheNotFoundError, DamagedError
from .manifest import Manifest
from .progress import Progress, SilentProgress
from .receipts import (
    ArrayRecord,
    Receipt,
    finished_shards,
    group_document,
    is_intact,
    read_receipt,
    read_receipts,
    receipt_key,
    shard_numbers,
)
from .shard import CRC_BYTES, attempts, chunk_key, read_array
from .storage import Storage, open_storage
from .writer import MANIFEST_KEY, read_manifest

ABANDONED_AFTER_S = 3600.0  # no write takes an hour: a shard is about 128 MiB


@dataclass(frozen=True)
class Problem:
    """Something in a cache that is not as it was written; `shard` is None for the root."""

    shard: int | None
    key: str
    what: str


@dataclass(frozen=True)
class Garbage:
    """What a crash left: nothing refers to it."""

    key: str
    why: str


def verify(
    path: str | Path, *, quick: bool = False, progress: Progress | None = None
) -> list[Problem]:
    """Everything in a cache that differs from what was written; empty for a sound cache.

    Args:
        path: Local folder or URL.
        quick: Check receipts, counts and file sizes only, and read no hidden states.
        progress: Where to report.

    Raises:
        CacheNotFoundError: There is no cache at `path`.
        CacheError: The manifest itself is damaged.
    """
    storage = open_storage(path)
    manifest = _manifest(storage)
    groups = {key: storage.read(key) for key in ("shards/zarr.json", "receipts/zarr.json")}
    sound = {key: data == group_document() for key, data in groups.items()}
    sound[MANIFEST_KEY] = is_intact(storage.read(MANIFEST_KEY) or b"")
    problems = [
        Problem(None, key, "missing, or bytes changed since they were written")
        for key, is_sound in sound.items()
        if not is_sound
    ]
    finished = finished_shards(storage)
    reports = progress or SilentProgress()
    with reports.meter("verify", manifest.num_shards, "shards") as meter:
        for shard in range(manifest.num_shards):
            if shard in finished:
                problems += _shard_problems(storage, manifest, shard, quick)
            else:
                problems.append(Problem(shard, receipt_key(shard), "not finished: no receipt"))
            meter.advance(1)
    return problems


def drop_bad_shards(path: str | Path, problems: Sequence[Problem]) -> list[int]:
    """Remove every finished shard that has a problem, so that `unipt extract` writes it again.

    Returns:
        Shards that need writing, whether they were bad or never finished.
    """
    storage = open_storage(path)
    for problem in problems:
        if problem.key in ("shards/zarr.json", "receipts/zarr.json"):
            storage.write(problem.key, [group_document()])
    dropped = sorted({p.shard for p in problems if p.shard is not None})
    finished = finished_shards(storage).intersection(dropped)
    # The receipts first: a crash in between leaves unfinished shards and garbage.
    for shard in sorted(finished):
        storage.delete(f"receipts/{shard:06d}")
    for shard, attempt in attempts(storage):
        if shard in finished:
            storage.delete(f"shards/{attempt}")
    return dropped


def find_garbage(path: str | Path, *, include_recent: bool = False) -> list[Garbage]:
    """What no receipt refers to and nobody has written to for an hour.

    Args:
        path: Local folder or URL.
        include_recent: Also what changed within the hour. Only when nothing is writing.
    """
    storage = open_storage(path)
    _manifest(storage)
    receipts = read_receipts(storage, finished_shards(storage), _receipt_or_none)
    winners = {shard: receipt.attempt if receipt else None for shard, receipt in receipts.items()}
    garbage = []
    for shard, attempt in attempts(storage):
        if winners.get(shard) == attempt:
            continue
        if include_recent or storage.seconds_since_change(f"shards/{attempt}") > ABANDONED_AFTER_S:
            lost = "another attempt won" if winners.get(shard) else "never finished"
            garbage.append(Garbage(f"shards/{attempt}", lost))
    garbage += [
        Garbage(key, "its writer is gone")
        for key in map(claim_folder, sorted(shard_numbers(storage.names(CLAIMS))))
        if include_recent or storage.seconds_since_change(key) > ABANDONED_AFTER_S
    ]
    garbage += [
        Garbage(key, "half-written")
        for key in storage.temporary_files()
        if include_recent or storage.seconds_since_change(key) > ABANDONED_AFTER_S
    ]
    return garbage


def remove_garbage(path: str | Path, garbage: list[Garbage]) -> None:
    """Delete what `find_garbage` found."""
    storage = open_storage(path)
    for entry in garbage:
        storage.delete(entry.key)


def _manifest(storage: Storage) -> Manifest:
    manifest = read_manifest(storage)
    if manifest is None:
        raise CacheNotFoundError(storage.path)
    return manifest


def _receipt_or_none(storage: Storage, shard: int) -> Receipt | None:
    try:
        return read_receipt(storage, shard)
    except DamagedError:
        return None


def _shard_problems(
    storage: Storage, manifest: Manifest, shard: int, quick: bool
) -> Iterator[Problem]:
    key = receipt_key(shard)
    receipt = _receipt_or_none(storage, shard)
    if receipt is None or not is_intact(storage.read(key) or b""):
        yield Problem(shard, key, "damaged receipt")
        return
    if receipt.fingerprint != manifest.identity.fingerprint:
        yield Problem(shard, key, f"written for another cache: {receipt.fingerprint[:12]}")
        return
    for name, expected in receipt.documents.items():
        document = storage.read(f"shards/{receipt.attempt}/{name}")
        if document is None or crc32c_of(document) != expected:
            what = "missing" if document is None else "bytes changed"
            yield Problem(shard, f"shards/{receipt.attempt}/{name}", what)
    yield from _count_problems(storage, manifest, receipt)
    for name, record in receipt.arrays.items():
        yield from _array_problems(storage, receipt, name, record, quick)


def _array_problems(
    storage: Storage, receipt: Receipt, name: str, record: ArrayRecord, quick: bool
) -> Iterator[Problem]:
    num_bytes = int(np.prod(record.shape)) * np.dtype(record.dtype).itemsize
    key = chunk_key(receipt.attempt, name, len(record.shape))
    found = storage.size(key)
    needed = num_bytes + CRC_BYTES if num_bytes else None
    if found != needed:
        what = "missing" if found is None else f"{found} bytes, needed {needed}"
        yield Problem(receipt.shard, key, what)
    elif not quick:
        try:
            read_array(storage, receipt.attempt, name, record)
        except DamagedError:
            yield Problem(receipt.shard, key, "bytes changed (CRC32C differs)")


def _count_problems(storage: Storage, manifest: Manifest, receipt: Receipt) -> Iterator[Problem]:
    """Rows and samples that do not add up between the manifest and the arrays."""
    num_samples = len(manifest.shard_samples(receipt.shard))
    for spec in manifest.streams:
        offsets = receipt.arrays.get(f"{spec.name}/offsets")
        for part in encoding(manifest.encoding).parts(spec.width):
            array = receipt.arrays.get(f"{spec.name}/{part.name}")
            if array is None or offsets is None or offsets.shape != (num_samples + 1,):
                yield Problem(receipt.shard, receipt_key(receipt.shard), "sample count differs")
            elif array.shape[1:] != (len(spec.layers), part.length):
                yield Problem(receipt.shard, receipt_key(receipt.shard), "layers or width differ")


def describe_layers(path: str | Path) -> dict[str, list[tuple[float, float]]]:
    """Per stream, each stored layer's (absolute maximum, root mean square) over the cache."""
    storage = open_storage(path)
    manifest = _manifest(storage)
    found = read_receipts(storage, sorted(finished_shards(storage)), _receipt_or_none)
    receipts = [receipt for receipt in found.values() if receipt]
    table = {}
    for spec in manifest.streams:
        rows = np.array([r.arrays[f"{spec.name}/values"].shape[0] for r in receipts])
        absmax = np.array([r.statistics[spec.name].absmax for r in receipts])
        squares = np.array([r.statistics[spec.name].mean_square for r in receipts])
        if receipts:
            rms = np.sqrt((squares * rows[:, None]).sum(0) / rows.sum())
            table[spec.name] = list(zip(absmax.max(0).tolist(), rms.tolist(), strict=True))
    return table
