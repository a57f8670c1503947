"""Hidden states as whole numbers of 8 or 4 bits, in groups of channels that share a scale.

N packed rows, L layers, D width, G groups of a row and layer, K channels of a group, C bytes of a
row and layer.

In each group the number of largest magnitude becomes -2^(bits - 1), the lowest whole number there
is, so that the scale's sign says to which side the group reaches further. With +-(2^(bits - 1) - 1)
at both ends, 4 bits have an eighth more error (`docs/log.md`). With 4 bits, byte c holds channel c
in its low and channel C + c in its high half, in two's complement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .encodings import GROUP

# bfloat16 has the range of float32. Scales are normal numbers, or dividing by them would overflow,
# and small enough that no product with a whole number does, however it is rounded.
_SMALLEST_SCALE = 2.0**-126
_LARGEST_STATE = torch.finfo(torch.bfloat16).max * (1 - 2.0**-7)
# A group whose numbers are all this close to its extreme gets the highest whole number there
# instead: a row of nothing but the lowest one is what a missing chunk looks like.
_ALIKE = 0.9

# Numbers at once: on a CPU their float32 copy stays in a core's cache.
_BLOCK = {"cpu": 2**19}
_LARGE_BLOCK = 2**26


@dataclass(frozen=True, eq=False)
class Scales:
    """What the whole numbers of a stream are multiplied with.

    Attributes:
        values: (N, L, G) bfloat16.
        bits: Of each whole number.
        width: D.
    """

    values: Tensor
    bits: int
    width: int

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Scales:
        """The same on another device."""
        return replace(self, values=self.values.to(device, non_blocking=non_blocking))


def quantise(values_NLD: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Round hidden states to whole numbers times a scale.

    A state that is not finite shows in the scale of its group.

    Args:
        values_NLD: Of any floating dtype, on any device.
        bits: 8 or 4.

    Returns:
        (N, L, C) int8, (N, L, G) bfloat16 scales, and (L,) float32: each layer's largest
        magnitude before rounding, not finite where one of its states is not.
    """
    num_rows, num_layers, width = values_NLD.shape
    device = values_NLD.device
    packed_NLC = torch.empty(
        (num_rows, num_layers, -(-width * bits // 8)), dtype=torch.int8, device=device
    )
    scales_NLG = torch.empty(
        (num_rows, num_layers, -(-width // GROUP)), dtype=torch.bfloat16, device=device
    )
    absmax_L = torch.zeros(num_layers, device=device)
    step = max(1, _BLOCK.get(device.type, _LARGE_BLOCK) // (num_layers * width))
    for start in range(0, num_rows, step):
        rows = slice(start, start + step)
        largest_L = _quantise(values_NLD[rows].float(), packed_NLC[rows], scales_NLG[rows], bits)
        absmax_L = torch.maximum(absmax_L, largest_L)
    return packed_NLC, scales_NLG, absmax_L


def dequantise(packed_NLC: Tensor, scales: Scales, dtype: torch.dtype = torch.float32) -> Tensor:
    """(N, L, D) hidden states from what `quantise` gave."""
    # float16 holds no scale below 6e-8.
    computed = torch.float32 if dtype == torch.float16 else dtype
    whole_NLD = packed_NLC if scales.bits == 8 else _unpack(packed_NLC, scales.width)
    values_NLD = whole_NLD.to(computed)
    for values_NLGK, scales_NLG in _groups(values_NLD, scales.values):
        values_NLGK.mul_(scales_NLG.to(computed)[..., None])
    return values_NLD.to(dtype)


def _quantise(values_NLD: Tensor, packed_NLC: Tensor, scales_NLG: Tensor, bits: int) -> Tensor:
    """Fill some rows of codes and scales; (L,) their largest magnitude."""
    lowest = -(2 ** (bits - 1))
    whole_NLD = packed_NLC if bits == 8 else torch.empty_like(values_NLD, dtype=torch.int8)
    largest = []
    for (values_NLGK, scale_NLG), (whole_NLGK, _) in zip(
        _groups(values_NLD, scales_NLG), _groups(whole_NLD, scales_NLG), strict=True
    ):
        extreme_NLG, other_NLG = _extremes(values_NLGK)
        scale_NLG.copy_(_scale(extreme_NLG, other_NLG, lowest))
        scaled_NLGK = values_NLGK * scale_NLG.float().reciprocal()[..., None]
        whole_NLGK.copy_(scaled_NLGK.round_().clamp_(lowest, -lowest - 1))
        largest.append(extreme_NLG.abs().amax((0, 2)))
    if bits == 4:
        _pack(whole_NLD, packed_NLC)
    return torch.stack(largest).amax(0)


def _extremes(values_NLGK: Tensor) -> tuple[Tensor, Tensor]:
    """Of each group the number of largest magnitude, and the one at the other end."""
    high_NLG, low_NLG = values_NLGK.amax(-1), values_NLGK.amin(-1)
    is_high = high_NLG > -low_NLG
    return torch.where(is_high, high_NLG, low_NLG), torch.where(is_high, low_NLG, high_NLG)


def _scale(extreme_NLG: Tensor, other_NLG: Tensor, lowest: int) -> Tensor:
    end_NLG = torch.where(other_NLG / extreme_NLG > _ALIKE, -lowest - 1.0, float(lowest))
    scale_NLG = extreme_NLG.clamp(-_LARGEST_STATE, _LARGEST_STATE) / end_NLG
    scale_NLG = torch.where(scale_NLG.abs() < _SMALLEST_SCALE, _SMALLEST_SCALE, scale_NLG)
    return torch.where(extreme_NLG.isfinite(), scale_NLG, extreme_NLG)


def _groups(values_NLD: Tensor, scales_NLG: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of the whole groups (N, L, G, K) with their scales, then of a shorter last one."""
    num_whole, rest = divmod(values_NLD.shape[-1], GROUP)
    if num_whole:
        whole_NLD = values_NLD[..., : num_whole * GROUP]
        yield whole_NLD.unflatten(-1, (num_whole, GROUP)), scales_NLG[..., :num_whole]
    if rest:
        yield values_NLD[..., None, -rest:], scales_NLG[..., num_whole:]


def _pack(whole_NLD: Tensor, packed_NLC: Tensor) -> None:
    half, rest = packed_NLC.shape[-1], whole_NLD.shape[-1] - packed_NLC.shape[-1]
    torch.bitwise_and(whole_NLD[..., :half], 15, out=packed_NLC)
    packed_NLC[..., :rest].bitwise_or_(whole_NLD[..., half:] << 4)


def _unpack(packed_NLC: Tensor, width: int) -> Tensor:
    return torch.cat([(packed_NLC << 4) >> 4, packed_NLC >> 4], dim=-1)[..., :width]
