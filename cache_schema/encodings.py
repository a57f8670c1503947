"""What hidden states are stored as: the arrays of each encoding, their types and their sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
from pydantic import JsonValue

from .manifest import EncodingName, Manifest

if TYPE_CHECKING:
    import torch

GROUP = 32
"""Channels that share a scale: see `docs/log.md` for what 16 and 64 cost and lose."""

VALUES, SCALES = "values", "scales"
_BFLOAT16_NAN = 0x7FC0


@dataclass(frozen=True)
class Part:
    """One of the arrays that a stream is stored as: (rows, layers, length).

    Attributes:
        name: Of the array, below the stream's name.
        length: Numbers per row and layer.
        dtype: What Zarr holds; it has no bfloat16, whose bits lie in uint16.
        fill: Zarr fill value, something that is never stored, so that a missing chunk cannot look
            like data.
        attributes: Of the array: how to decode it without this package.
    """

    name: str
    length: int
    dtype: np.dtype
    fill: float | int
    attributes: dict[str, JsonValue]


@dataclass(frozen=True)
class Encoding:
    """A storage form of hidden states.

    Attributes:
        name: As in the manifest; of the exact ones also torch's name of the true dtype.
        stored_dtype: What Zarr holds.
        fill: Of the array of values.
        largest: Largest finite magnitude.
        bits: Of a quantised number; None where numbers are stored as floats.
    """

    name: EncodingName
    stored_dtype: np.dtype
    fill: float | int
    largest: float
    bits: int | None = None

    @property
    def dtype(self) -> torch.dtype | None:
        """What the numbers are stored as; None where they are quantised, from any float."""
        import torch

        return {
            "float16": torch.float16,
            "bfloat16": torch.bfloat16,
            "float32": torch.float32,
        }.get(self.name)

    @property
    def identity(self) -> dict[str, JsonValue]:
        """What of it determines the stored numbers."""
        return {"encoding": self.name} | ({"group": GROUP} if self.bits else {})

    def parts(self, width: int) -> tuple[Part, ...]:
        """The arrays of a stream of this width."""
        if self.bits is None:
            attributes: dict[str, JsonValue] = {"dtype": self.name}
            return (Part(VALUES, width, self.stored_dtype, self.fill, attributes),)
        num_bytes = -(-width * self.bits // 8)
        form: dict[str, JsonValue] = {
            "dtype": self.name,
            "width": width,
            "group": GROUP,
            "decode": _DECODE[self.bits],
        }
        return (
            Part(VALUES, num_bytes, self.stored_dtype, self.fill, form),
            Part(SCALES, -(-width // GROUP), np.dtype("<u2"), _BFLOAT16_NAN, {"dtype": "bfloat16"}),
        )

    def row_bytes(self, num_layers: int, width: int) -> int:
        """Bytes of one row with all of its layers."""
        return num_layers * sum(part.length * part.dtype.itemsize for part in self.parts(width))


_DECODE = {
    8: "channel c is values[..., c] * scales[..., c // group]",
    4: "channel c is number[..., c] * scales[..., c // group]; with n bytes per row, number c is "
    "the low half of byte c where c < n, else the high half of byte c - n, in two's complement",
}
# A row whose numbers all are the lowest one is never stored (see `quantised`).
_ENCODINGS: dict[EncodingName, Encoding] = {
    "float16": Encoding("float16", np.dtype("<f2"), float("nan"), 65504.0),
    "bfloat16": Encoding("bfloat16", np.dtype("<u2"), _BFLOAT16_NAN, 3.3895e38),
    "float32": Encoding("float32", np.dtype("<f4"), float("nan"), 3.4028e38),
    "int8": Encoding("int8", np.dtype("i1"), -128, 3.4028e38, bits=8),
    "int4": Encoding("int4", np.dtype("i1"), -120, 3.4028e38, bits=4),  # 0x88: -8 and -8
}
assert set(_ENCODINGS) == set(get_args(EncodingName))


def encoding(name: EncodingName) -> Encoding:
    """The encoding of this name."""
    return _ENCODINGS[name]


def parts_of(manifest: Manifest) -> dict[str, Part]:
    """What each array of hidden states is in every shard of a cache, by the array's name."""
    stored = encoding(manifest.encoding)
    return {
        f"{spec.name}/{part.name}": part
        for spec in manifest.streams
        for part in stored.parts(spec.width)
    }
