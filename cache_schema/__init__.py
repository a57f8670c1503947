"""What a cache is: manifest, identity, shards, encodings, receipts, and reading it back."""

from .batch import FeatureBatch, RowLayout, StreamBatch
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
from .manifest import (
    BackboneSpec,
    EncodingName,
    LayerSpec,
    Manifest,
    SplitSpec,
    StreamSpec,
    TargetSpec,
)
from .progress import Meter, Progress, SilentProgress

__all__ = [
    "BackboneSpec",
    "CacheError",
    "CacheNotFoundError",
    "CorruptCacheError",
    "EncodingName",
    "FeatureBatch",
    "FingerprintMismatchError",
    "Identity",
    "IncompleteCacheError",
    "LayerSpec",
    "Manifest",
    "Meter",
    "Progress",
    "RowLayout",
    "SilentProgress",
    "SplitSpec",
    "StorageError",
    "StreamBatch",
    "StreamSpec",
    "TargetSpec",
    "UserError",
    "differing_fields",
]
