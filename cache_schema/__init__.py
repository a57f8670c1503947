"""What a cache is: manifest, identity, shards, encodings, receipts, and reading it back."""

from importlib import import_module
from typing import TYPE_CHECKING

from .claims import Claims
from .direct_io import PAGE_BYTES
from .encodings import Encoding, encoding
from .errors import (
    CacheError,
    CacheNotFoundError,
    CorruptCacheError,
    FingerprintMismatchError,
    IncompleteCacheError,
    StorageError,
    UserError,
)
from .fingerprint import Identity, differing_fields
from .health import (
    Garbage,
    Problem,
    describe_layers,
    drop_bad_shards,
    find_garbage,
    remove_garbage,
    verify,
)
from .interrupts import StopSignals
from .manifest import (
    BackboneSpec,
    EncodingName,
    LayerSpec,
    Manifest,
    SplitSpec,
    StreamSpec,
    TargetSpec,
)
from .memory import keep_freed_memory
from .progress import Meter, Progress, SilentProgress
from .ragged import Ragged
from .receipts import (
    LayerStatistics,
    Receipt,
    UnreadableSample,
    finished_shards,
    read_receipt,
    read_receipts,
)
from .shard import ShardContents, StreamContents
from .storage import Storage, looks_like_url, open_storage
from .writer import CacheWriter, check_place, missing_shards, read_manifest

if TYPE_CHECKING:
    from .batch import FeatureBatch, RowLayout, StreamBatch
    from .cache import FeatureCache, TargetColumn
    from .coding import Encoded, decode, encode, rounded, tensor_dtype, to_stored
    from .pairs import PairedBatch, PairedCache

__all__ = [
    "PAGE_BYTES",
    "BackboneSpec",
    "CacheError",
    "CacheNotFoundError",
    "CacheWriter",
    "Claims",
    "CorruptCacheError",
    "Encoded",
    "Encoding",
    "EncodingName",
    "FeatureBatch",
    "FeatureCache",
    "FingerprintMismatchError",
    "Garbage",
    "Identity",
    "IncompleteCacheError",
    "LayerSpec",
    "LayerStatistics",
    "Manifest",
    "Meter",
    "PairedBatch",
    "PairedCache",
    "Problem",
    "Progress",
    "Ragged",
    "Receipt",
    "RowLayout",
    "ShardContents",
    "SilentProgress",
    "SplitSpec",
    "StopSignals",
    "Storage",
    "StorageError",
    "StreamBatch",
    "StreamContents",
    "StreamSpec",
    "TargetColumn",
    "TargetSpec",
    "UnreadableSample",
    "UserError",
    "check_place",
    "decode",
    "describe_layers",
    "differing_fields",
    "drop_bad_shards",
    "encode",
    "encoding",
    "find_garbage",
    "finished_shards",
    "keep_freed_memory",
    "looks_like_url",
    "missing_shards",
    "open_storage",
    "read_manifest",
    "read_receipt",
    "read_receipts",
    "remove_garbage",
    "rounded",
    "tensor_dtype",
    "to_stored",
    "verify",
]

# These need torch, which takes seconds to import; looking after a cache does not need it.
_NEEDS_TORCH = {
    "FeatureBatch": ".batch",
    "RowLayout": ".batch",
    "StreamBatch": ".batch",
    "FeatureCache": ".cache",
    "PairedBatch": ".pairs",
    "PairedCache": ".pairs",
    "TargetColumn": ".cache",
    "Encoded": ".coding",
    "decode": ".coding",
    "encode": ".coding",
    "rounded": ".coding",
    "tensor_dtype": ".coding",
    "to_stored": ".coding",
}


def __getattr__(name: str) -> object:
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NEEDS_TORCH[name], __name__), name)
