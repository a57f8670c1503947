"""What makes two caches the same: everything that can change a stored number, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, JsonValue


class Identity(BaseModel):
    """The facts that determine a cache's contents.

    `features` decides the hidden states of any one sample (weights, tokenizer, max length, layers,
    precision, encoding): `predict` must match it. `data` decides which samples there are.
    Batch size, device and worker counts belong to neither.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: dict[str, JsonValue]
    data: dict[str, JsonValue]

    @property
    def features_fingerprint(self) -> str:
        """sha256 of `features`, 64 hex digits."""
        return _digest(self.features)

    @property
    def fingerprint(self) -> str:
        """sha256 of the whole identity, 64 hex digits."""
        return _digest({"features": self.features, "data": self.data})

    def differences(self, other: Identity) -> list[str]:
        """Each differing field as `path: 'mine' here, 'theirs' there`."""
        return [
            f"{section}.{line}"
            for section in ("features", "data")
            for line in differing_fields(getattr(self, section), getattr(other, section))
        ]


def differing_fields(here: Mapping[str, JsonValue], there: Mapping[str, JsonValue]) -> list[str]:
    """Each key whose values differ, as `key: here != there`."""
    return [
        f"{key}: {here.get(key)!r} here, {there.get(key)!r} there"
        for key in sorted({*here, *there})
        if here.get(key) != there.get(key)
    ]


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
