"""What a backbone's files are, whatever folder they lie in."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from pydantic import JsonValue

from .config import BackboneConfig
from .resolve import ResolvedBackbone


def file_identity(resolved: ResolvedBackbone, config: BackboneConfig) -> dict[str, JsonValue]:
    """Hashes of the files that every kind of backbone has: weights, config, and code if it runs."""
    return {
        "weights": digest(resolved.weights),
        "config": digest([resolved.config]),
        "code": digest(resolved.code) if config.trust_remote_code else None,
    }


def digest(paths: Sequence[Path]) -> str:
    """sha256 of one file, or of the names and sha256 of several."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    lines = "".join(f"{d}  {p.name}\n" for d, p in zip(digests, paths, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()
