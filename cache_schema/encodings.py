"""How hidden states become stored numbers and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np

from .manifest import EncodingName

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Encoding:
    """A storage form of hidden states.

    Attributes:
        name: As in the manifest; also torch's name of the true dtype.
        stored_dtype: What Zarr holds: bfloat16 has no Zarr type, so its bits lie in uint16.
        fill: Zarr fill value, NaN in the true dtype, so that a missing chunk cannot look like data.
        largest: Largest finite magnitude.
    """

    name: EncodingName
    stored_dtype: np.dtype
    fill: float | int
    largest: float

    @property
    def dtype(self) -> torch.dtype:
        """What the numbers are."""
        import torch

        return {
            "float16": torch.float16,
            "bfloat16": torch.bfloat16,
            "float32": torch.float32,
        }[self.name]

    @property
    def itemsize(self) -> int:
        """Bytes per number."""
        return self.stored_dtype.itemsize

    def to_stored(self, values: Tensor) -> np.ndarray:
        """A CPU tensor of `dtype` as the array that Zarr holds, without a copy."""
        import torch

        array: np.ndarray = (
            values.view(torch.uint16) if self.name == "bfloat16" else values
        ).numpy()
        return array

    def from_stored(self, array: np.ndarray) -> Tensor:
        """A stored array as a tensor of `dtype`, without a copy."""
        import torch

        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if self.name == "bfloat16" else tensor


_ENCODINGS: dict[EncodingName, Encoding] = {
    "float16": Encoding("float16", np.dtype("<f2"), float("nan"), 65504.0),
    "bfloat16": Encoding("bfloat16", np.dtype("<u2"), 0x7FC0, 3.3895e38),
    "float32": Encoding("float32", np.dtype("<f4"), float("nan"), 3.4028e38),
}
assert set(_ENCODINGS) == set(get_args(EncodingName))


def encoding(name: EncodingName) -> Encoding:
    """The encoding of this name."""
    return _ENCODINGS[name]
