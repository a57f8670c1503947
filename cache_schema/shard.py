"""One shard: a Zarr group written once by one process and never changed afterwards.

Every array is one uncompressed chunk followed by its CRC32C, so that one sample is one byte range.
"""

from __future__ import annotations

import json
import re
import struct
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from socket import gethostname

import numpy as np

from .checksums import crc32c_of, join_crcs
from .encodings import SCALES, VALUES, Part
from .errors import DamagedError
from .ragged import Ragged
from .receipts import ArrayRecord, LayerStatistics, Receipt, UnreadableSample
from .storage import Storage

CRC_BYTES = 4
SAMPLE_CRCS = "samples/crc32c"
_ATTEMPT = re.compile(r"([0-9]{6,})-\w+")


@dataclass(frozen=True)
class StreamContents:
    """One stream of a shard: its stored numbers, (rows, layers, ...), and its statistics."""

    states: Ragged
    statistics: LayerStatistics
    grid: np.ndarray | None = None
    scales: np.ndarray | None = None

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """Its arrays of hidden states by name."""
        scales = {} if self.scales is None else {SCALES: self.scales}
        return {VALUES: self.states.values, **scales}


@dataclass(frozen=True)
class ShardContents:
    """All that one shard holds. `inputs` and `targets` are plain (samples, ...) or ragged."""

    ids: np.ndarray
    streams: Mapping[str, StreamContents]
    inputs: Mapping[str, Ragged | np.ndarray] = field(default_factory=dict)
    targets: Mapping[str, Ragged | np.ndarray] = field(default_factory=dict)
    views: np.ndarray | None = None
    unreadable: tuple[UnreadableSample, ...] = ()


def chunk_key(attempt: str, array: str, num_axes: int) -> str:
    """Where the only chunk of an array lies."""
    return f"shards/{attempt}/{array}/c/" + "/".join("0" * num_axes)


def write_arrays(
    storage: Storage,
    shard: int,
    contents: ShardContents,
    parts: Mapping[str, Part],
    fingerprint: str,
) -> Receipt:
    """Write a shard under a fresh attempt name and make it durable; the caller commits it.

    Args:
        storage: Of the cache.
        shard: Its number.
        contents: All of it.
        parts: What each array of hidden states is.
        fingerprint: Of the cache.
    """
    started = time.monotonic()
    attempt = f"{shard:06d}-{uuid.uuid4().hex[:12]}"
    arrays = _arrays(contents)
    documents = _metadata(arrays, parts)
    for key, document in documents.items():
        storage.write(f"shards/{attempt}/{key}", [document])
    # The hidden states are nearly all of the bytes, and every sample of theirs has a CRC already.
    known = _states_crcs(contents, arrays[SAMPLE_CRCS])
    records = {}
    for name, array in arrays.items():
        crc = known[name] if name in known else crc32c_of(array)
        records[name] = ArrayRecord(shape=array.shape, dtype=array.dtype.name, crc32c=crc)
        if array.size:
            tail = struct.pack("<I", records[name].crc32c)
            storage.write(chunk_key(attempt, name, array.ndim), [array.data.cast("B"), tail])
    storage.make_durable(f"shards/{attempt}")
    return Receipt(
        shard=shard,
        attempt=attempt,
        fingerprint=fingerprint,
        arrays=records,
        documents={key: crc32c_of(document) for key, document in documents.items()},
        statistics={name: stream.statistics for name, stream in contents.streams.items()},
        unreadable=contents.unreadable,
        num_bytes=sum(array.nbytes + CRC_BYTES for array in arrays.values()),
        seconds=time.monotonic() - started,
        host=gethostname(),
        written=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def attempts(storage: Storage) -> list[tuple[int, str]]:
    """Shard and folder of every attempt, committed or not; folders of others are passed over."""
    found = map(_ATTEMPT.fullmatch, storage.names("shards"))
    return [(int(match[1]), match[0]) for match in found if match]


def read_array(storage: Storage, attempt: str, name: str, record: ArrayRecord) -> np.ndarray:
    """One whole array, its CRC checked.

    Raises:
        DamagedError: The chunk is missing, has another size, or its bytes changed.
        StorageError: The store was not reached, which says nothing about the bytes.
    """
    dtype = np.dtype(record.dtype)
    num_bytes = int(np.prod(record.shape)) * dtype.itemsize
    if num_bytes == 0:
        return np.zeros(record.shape, dtype)
    key = chunk_key(attempt, name, len(record.shape))
    data = storage.read(key)
    if data is None:
        raise DamagedError(f"{key}: missing")
    if len(data) != num_bytes + CRC_BYTES:
        raise DamagedError(f"{key}: {len(data)} bytes, needed {num_bytes + CRC_BYTES}")
    array = np.frombuffer(data, dtype, count=num_bytes // dtype.itemsize).reshape(record.shape)
    if crc32c_of(array) != record.crc32c or data[num_bytes:] != struct.pack("<I", record.crc32c):
        raise DamagedError(f"{key}: bytes changed since they were written (CRC32C differs)")
    return array


def sample_crcs(streams: Mapping[str, StreamContents]) -> np.ndarray:
    """(samples, parts of all streams) uint32: CRC32C of each sample's bytes in each array."""
    columns = [
        [crc32c_of(part[start:stop]) for start, stop in pairwise(stream.states.offsets.tolist())]
        for stream in streams.values()
        for part in stream.parts.values()
    ]
    return np.array(columns, dtype=np.uint32).T.copy()


def _states_crcs(contents: ShardContents, crcs: np.ndarray) -> dict[str, int]:
    """CRC32C of each array of hidden states."""
    found: dict[str, int] = {}
    columns = iter(crcs.T)
    for name, stream in contents.streams.items():
        for part, array in stream.parts.items():
            row_bytes = array.dtype.itemsize * np.prod(array.shape[1:])
            found[f"{name}/{part}"] = join_crcs(next(columns), stream.states.lengths * row_bytes)
    return found


def _arrays(contents: ShardContents) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for name, stream in contents.streams.items():
        arrays |= {f"{name}/{part}": array for part, array in stream.parts.items()}
        arrays[f"{name}/offsets"] = stream.states.offsets
        if stream.grid is not None:
            arrays[f"{name}/grid"] = stream.grid.astype(np.int32)
    for section, columns in (("inputs", contents.inputs), ("targets", contents.targets)):
        for name, column in columns.items():
            if isinstance(column, Ragged):
                arrays[f"{section}/{name}/values"] = column.values
                arrays[f"{section}/{name}/offsets"] = column.offsets
            else:
                arrays[f"{section}/{name}"] = column
    views = contents.views
    arrays["samples/id"] = contents.ids.astype(np.int64)
    arrays["samples/view"] = (
        np.zeros(len(contents.ids), np.int32) if views is None else views.astype(np.int32)
    )
    arrays[SAMPLE_CRCS] = sample_crcs(contents.streams)
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _metadata(arrays: Mapping[str, np.ndarray], parts: Mapping[str, Part]) -> dict[str, bytes]:
    """Every `zarr.json` of a shard's group."""
    folders = {parent for name in arrays for parent in _parents(name)}
    documents = {f"{folder}/zarr.json".lstrip("/"): _group_template() for folder in folders}
    for name, array in arrays.items():
        part = parts.get(name)
        fill = float("nan") if np.issubdtype(array.dtype, np.floating) else 0
        attributes = {} if part is None else part.attributes
        template = _array_template(
            array.dtype.str,
            array.ndim,
            repr(fill if part is None else part.fill),
            json.dumps(attributes),
        )
        document = json.loads(template)
        document["shape"] = list(array.shape)
        chunk_shape = [max(1, size) for size in array.shape]
        document["chunk_grid"]["configuration"]["chunk_shape"] = chunk_shape
        documents[f"{name}/zarr.json"] = json.dumps(document, indent=2).encode()
    return documents


def _parents(name: str) -> list[str]:
    """The groups that an array lies in, the root's name being empty."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[:depth]) for depth in range(len(parts) + 1)]


@cache
def _group_template() -> bytes:
    """A group's `zarr.json`, as Zarr itself writes it."""
    import zarr
    from zarr.core.buffer import Buffer

    documents: dict[str, Buffer] = {}
    zarr.open_group(zarr.storage.MemoryStore(documents), mode="w-")
    return documents["zarr.json"].to_bytes()


@cache
def _array_template(dtype: str, num_axes: int, fill: str, attributes: str) -> bytes:
    """The `zarr.json` of an array of one number, as Zarr itself writes it.

    Zarr takes milliseconds for each array, which adds up over the shards of a cache.
    """
    import zarr
    from zarr.codecs import Crc32cCodec
    from zarr.core.buffer import Buffer

    documents: dict[str, Buffer] = {}
    zarr.create_array(
        zarr.storage.MemoryStore(documents),
        shape=(1,) * num_axes,
        dtype=dtype,
        chunks=(1,) * num_axes,
        filters=None,
        compressors=[Crc32cCodec()],
        fill_value=float(fill) if "nan" in fill else int(fill),
        attributes=json.loads(attributes),
    )
    return documents["zarr.json"].to_bytes()
