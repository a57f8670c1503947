"""Filling a cache: the manifest is claimed first, shards are committed one by one."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import ValidationError

from .claims import FOLDER as CLAIMS
from .encodings import parts_of
from .errors import CacheError, FingerprintMismatchError
from .manifest import FORMAT_VERSION, Manifest
from .receipts import (
    commit,
    finished_shards,
    group_document,
    parse_group_document,
    receipt_key,
    shard_numbers,
)
from .shard import ShardContents, write_arrays
from .storage import Storage, open_storage

MANIFEST_KEY = "zarr.json"
_LOOKS = 20  # at a manifest that another writer has just begun
_OWN = (MANIFEST_KEY, "shards", "receipts", CLAIMS)


class CacheWriter:
    """Writes shards of one cache; any number of writers may share it."""

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self.storage = storage
        self.manifest = manifest
        self._parts = parts_of(manifest)

    @classmethod
    def create(cls, path: str | Path, manifest: Manifest) -> CacheWriter:
        """Claim `path` for this manifest, or join the cache of the same identity there.

        Raises:
            FingerprintMismatchError: A cache of something else lies there; names what differs.
            CacheError: The folder holds files that are not a cache.
            StorageError: The place cannot be written.
        """
        check_place(path)
        storage = open_storage(path)
        for group in ("shards", "receipts"):
            if storage.size(f"{group}/zarr.json") is None:
                storage.write_once(f"{group}/zarr.json", group_document())
        root = group_document(manifest)
        present = None
        for _ in range(_LOOKS):
            if storage.write_once(MANIFEST_KEY, root):
                return cls(storage, manifest)
            present = read_manifest(storage)
            if present is not None:
                break
            # Another writer's, that cannot be read yet or was given up just now; or a foreign one.
            time.sleep(0.1)
        if present is None:
            raise CacheError(f"{path}: a zarr.json of something else lies here. Use another path.")
        if present.identity != manifest.identity:
            raise FingerprintMismatchError(path, manifest.identity.differences(present.identity))
        if present.shard_starts != manifest.shard_starts:
            raise CacheError(
                f"{path}: cut into {present.num_shards} shards, this run would make "
                f"{manifest.num_shards}. Use the shard size it was made with, or another path."
            )
        return cls(storage, present)

    def missing_shards(self) -> list[int]:
        """Shards without a receipt, in order."""
        return missing_shards(self.storage, self.manifest)

    def is_finished(self, shard: int) -> bool:
        """Whether a shard has a receipt."""
        return self.storage.size(receipt_key(shard)) is not None

    def discard_if_empty(self) -> bool:
        """Remove the cache again if nothing is finished or being made; whether it was removed."""
        if finished_shards(self.storage) or shard_numbers(self.storage.names(CLAIMS)):
            return False
        # The manifest first: without it there is no cache, whatever a crash leaves.
        for key in (MANIFEST_KEY, "receipts", "shards", CLAIMS):
            self.storage.delete(key)
        return True

    def write_shard(self, shard: int, contents: ShardContents) -> bool:
        """Write and commit one shard; False if another writer committed it first."""
        fingerprint = self.manifest.identity.fingerprint
        receipt = write_arrays(self.storage, shard, contents, self._parts, fingerprint)
        # The commit point: whatever a crash leaves before this line is garbage for `unipt gc`.
        if commit(self.storage, receipt):
            return True
        self.storage.delete(f"shards/{receipt.attempt}")
        return False


def check_place(path: str | Path) -> None:
    """Refuse a local folder that is in use for something else.

    Raises:
        CacheError: It holds files that are not a cache.
    """
    storage = open_storage(path)
    # A crash may leave anything of a cache but its manifest, which is written last.
    foreign = [name for name in storage.contents() if name not in _OWN]
    if foreign and read_manifest(storage) is None:
        raise CacheError(
            f"{path}: holds files that are not a cache ({', '.join(foreign[:3])}). "
            "Choose another --cache."
        )


def missing_shards(storage: Storage, manifest: Manifest) -> list[int]:
    """Shards of a cache without a receipt, in order; all of them where there is no cache yet."""
    finished = finished_shards(storage)
    return [shard for shard in range(manifest.num_shards) if shard not in finished]


def read_manifest(storage: Storage) -> Manifest | None:
    """The manifest of the cache in a storage; None if there is no cache.

    Raises:
        CacheError: The manifest is damaged or of a format that this version cannot read.
    """
    data = storage.read(MANIFEST_KEY)
    if data is None:
        return None
    try:
        document = parse_group_document(data)
        if document is None:
            return None
        version = document.get("format_version")
        if version != FORMAT_VERSION:
            raise CacheError(
                f"{storage.path}: cache format {version!r}, this unipt reads {FORMAT_VERSION}. "
                "Use the unipt that wrote it, or extract again."
            )
        return Manifest.model_validate(document)
    except CacheError:
        raise
    except ValueError as error:
        what = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise CacheError(
            f"{storage.path}/{MANIFEST_KEY}: damaged manifest ({what}). Extract again."
        ) from error
