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


def differing_fields(
    first: Mapping[str, JsonValue],
    second: Mapping[str, JsonValue],
    places: tuple[str, str] = ("here", "there"),
) -> list[str]:
    """Each key whose values differ, with both values and the `places` that they are found in."""
    return [
        f"{key}: {first.get(key)!r} {places[0]}, {second.get(key)!r} {places[1]}"
        for key in sorted({*first, *second})
        if first.get(key) != second.get(key)
    ]


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
