"""The commit point of a shard: `receipts/<shard>/zarr.json`, an empty group with these attributes.

A shard is finished when its receipt exists, and never because a file does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import google_crc32c
from pydantic import Field, JsonValue

from .errors import DamagedError
from .manifest import Document
from .storage import Storage

T = TypeVar("T")

_SHARD = re.compile(r"[0-9]{6,}")


class ArrayRecord(Document):
    """What was written for one array."""

    shape: tuple[int, ...]
    dtype: str = Field(description="numpy name of the stored dtype, little-endian")
    crc32c: int = Field(description="of the array's bytes in C order")


class LayerStatistics(Document):
    """Statistics of one stream, one number per stored layer."""

    absmax: tuple[float, ...]
    mean_square: tuple[float, ...] = Field(
        description="mean of the squared values, from a sample of the rows"
    )


class UnreadableSample(Document):
    """A sample without hidden states: its source could not be read."""

    sample: int = Field(description="number in the cache")
    row: int = Field(description="row in the source data")
    reason: str


class Receipt(Document):
    """Proof that one shard was written whole, checked and made durable."""

    shard: int
    attempt: str = Field(description="folder below shards/ that won")
    fingerprint: str
    arrays: dict[str, ArrayRecord]
    documents: dict[str, int] = Field(description="CRC32C of every zarr.json of the shard")
    statistics: dict[str, LayerStatistics]
    unreadable: tuple[UnreadableSample, ...] = ()
    num_bytes: int
    seconds: float
    host: str
    written: str = Field(description="UTC, ISO 8601")


def group_document(document: Document | None = None) -> bytes:
    """A Zarr v3 group's `zarr.json` that carries one of our documents and its CRC32C."""
    attributes: dict[str, JsonValue] = {}
    if document is not None:
        body = document.model_dump(mode="json")
        attributes = {"unipt": body, "unipt_crc32c": _crc(body)}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(group, indent=1).encode()


def parse_group_document(data: bytes) -> dict[str, JsonValue] | None:
    """Our document in a group's `zarr.json`; None if the group carries none.

    Raises:
        ValueError: The file is not a group's metadata, or its bytes changed.
    """
    group = json.loads(data)
    if not isinstance(group, dict) or not isinstance(group.get("attributes"), dict):
        raise ValueError("not the metadata of a Zarr group")
    attributes = group["attributes"]
    body = attributes.get("unipt")
    if body is None:
        return None
    if attributes.get("unipt_crc32c") != _crc(body):
        raise ValueError("its bytes changed since they were written (CRC32C differs)")
    return cast("dict[str, JsonValue]", body)


def is_intact(data: bytes) -> bool:
    """Whether a group's `zarr.json` is byte for byte what `group_document` wrote."""
    try:
        parse_group_document(data)
        return json.dumps(json.loads(data), indent=1).encode() == data
    except ValueError:
        return False


def _crc(body: object) -> int:
    return int(google_crc32c.value(json.dumps(body, sort_keys=True).encode()))


def receipt_key(shard: int) -> str:
    """Where the receipt of a shard lies."""
    return f"receipts/{shard:06d}/zarr.json"


def read_receipt(storage: Storage, shard: int) -> Receipt | None:
    """The receipt of a shard; None while the shard is unfinished.

    Raises:
        DamagedError: There is a receipt, but it is damaged.
        StorageError: The store was not reached, which says nothing about the receipt.
    """
    data = storage.read(receipt_key(shard))
    if data is None:
        return None
    try:
        return Receipt.model_validate(parse_group_document(data))
    except ValueError as error:
        raise DamagedError(str(error)) from error


def read_receipts(
    storage: Storage, shards: Iterable[int], read: Callable[[Storage, int], T]
) -> dict[int, T]:
    """The receipts of several shards, several reads at a time.

    Args:
        storage: Of the cache.
        shards: Whose.
        read: Reads one, such as `read_receipt`.
    """
    numbers = list(shards)
    with ThreadPoolExecutor(storage.parallel_reads) as threads:
        found = threads.map(lambda shard: read(storage, shard), numbers)
        return dict(zip(numbers, found, strict=True))


def shard_numbers(names: Iterable[str]) -> set[int]:
    """The shards that folders are named after; folders of others are passed over."""
    return {int(name) for name in names if _SHARD.fullmatch(name)}


def finished_shards(storage: Storage) -> set[int]:
    """Numbers of all shards that have a receipt, from one listing."""
    return shard_numbers(storage.names("receipts"))


def commit(storage: Storage, receipt: Receipt) -> bool:
    """Make a shard real; False if another writer was first, whose shard then counts."""
    return storage.write_once(receipt_key(receipt.shard), group_document(receipt))
