"""Hidden states to stored numbers, on the device where they are.

N packed rows, L layers, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .encodings import Encoding
from .quantised import Scales, dequantise, quantise


@dataclass(frozen=True, eq=False)
class Encoded:
    """Hidden states as they are stored.

    Attributes:
        parts: (N, L, ...) each, as `Encoding.parts` lists them.
        absmax_L: Each layer's largest magnitude, not finite where a state cannot be stored.
    """

    parts: tuple[Tensor, ...]
    absmax_L: Tensor


def encode(values_NLD: Tensor, stored: Encoding) -> Encoded:
    """Hidden states of any floating dtype as an encoding stores them."""
    if stored.bits is None:
        values_NLD = values_NLD.to(stored.dtype)
        # What is too large for the encoding is infinite now.
        return Encoded((values_NLD,), _absmax(values_NLD))
    packed_NLC, scales_NLG, absmax_L = quantise(values_NLD, stored.bits)
    return Encoded((packed_NLC, scales_NLG), absmax_L)


def decode(parts: tuple[Tensor, ...], stored: Encoding, width: int) -> Tensor:
    """(N, L, D) hidden states: floats as they are stored, of quantised ones float32."""
    if stored.bits is None:
        return parts[0]
    return dequantise(parts[0], Scales(parts[1], stored.bits, width))


def rounded(values_NLD: Tensor, stored: Encoding) -> Tensor:
    """Hidden states as they come back from a cache."""
    if stored.bits is None:
        return values_NLD.to(stored.dtype)
    return decode(encode(values_NLD, stored).parts, stored, values_NLD.shape[-1])


def to_stored(tensor: Tensor) -> np.ndarray:
    """A CPU tensor as the array that Zarr holds, without a copy."""
    array: np.ndarray = (
        tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    ).numpy()
    return array


@cache
def tensor_dtype(stored: np.dtype) -> torch.dtype:
    """What the numbers of a stored array are."""
    if stored == np.uint16:
        return torch.bfloat16
    return torch.from_numpy(np.empty(0, stored)).dtype


def _absmax(values_NLD: Tensor) -> Tensor:
    """(L,) float32: the largest absolute value of each layer, NaN if there is one.

    Without their sign, floats are ordered like the integers of the same bits, NaN above all: one
    pass over half the bytes. Over the rows first, which is contiguous and several times faster.
    """
    bits = torch.int16 if values_NLD.element_size() == 2 else torch.int32
    unsigned_NLD = values_NLD.view(bits).bitwise_and(torch.iinfo(bits).max)
    return unsigned_NLD.amax(0).amax(1).view(values_NLD.dtype).float()
