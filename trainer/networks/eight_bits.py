"""Products of frozen hidden states in 8-bit integers, for training on a CPU.

N packed rows, D backbone width, R reduced width.

The hidden state of row n at place d is kept as an integer times row_N[n] * place_D[d]. The places'
scales go into the weights and the rows' into the other factor, so both products of a training step,

    forward           (N, D) x (D, R)   hidden states and weights
    weight gradient   (R, N) x (N, D)   gradients of the mapped rows and hidden states

are products of integers with exact sums, and only the rounding to 8 bits is lost. A place's scale
is the root of its largest state: where a place is always large, as in many language models, that
divides it evenly between hidden states and weights, and it drowns the other places in neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

_LARGEST = 127
_TINY = 1e-30  # in place of the scale of zeros
_ROUNDER = 1.5 * 2**23  # added to a float32, it leaves the nearest integer in the lowest bits
_WATCHED_ROWS = 64  # enough to see which places are always large
_ROWS_AT_ONCE = 2**17  # as many products of 127 x 127 always fit into a sum of 32 bits


@dataclass(frozen=True, eq=False)
class RoundedStates:
    """Hidden states of one layer, rounded.

    Attributes:
        integers_ND: int8.
        row_N: float32 scale of each row.
        place_D: float32 scale of each place.
    """

    integers_ND: Tensor
    row_N: Tensor
    place_D: Tensor

    @classmethod
    def of(cls, states_ND: Tensor) -> RoundedStates:
        """Round float32 hidden states, which are overwritten."""
        watched = states_ND[:: max(1, len(states_ND) // _WATCHED_ROWS)]
        place_D = _largest(watched, dim=0).sqrt_()
        integers_ND, row_N = _round(states_ND.mul_(place_D.reciprocal()), dim=1)
        return cls(integers_ND, row_N, place_D)

    def times(self, weight_RD: Tensor) -> Tensor:
        """(N, R) float32: these states through a linear map."""
        integers_RD, output_R = _round(weight_RD * self.place_D, dim=1)
        product_NR = torch._int_mm(self.integers_ND, integers_RD.T).to(weight_RD.dtype)
        return product_NR.mul_(self.row_N[:, None]).mul_(output_R)

    def weight_gradient(self, grad_NR: Tensor) -> Tensor:
        """(R, D) float32: what the gradient of the mapped rows gives the weights."""
        integers_NR, output_R = _round(grad_NR * self.row_N[:, None], dim=0)
        both = (torch.split(part, _ROWS_AT_ONCE) for part in (integers_NR, self.integers_ND))
        blocks = zip(*both, strict=True)
        products = (torch._int_mm(rows.T, states).to(grad_NR.dtype) for rows, states in blocks)
        product_RD = reduce(Tensor.add_, products)
        return product_RD.mul_(output_R[:, None]).mul_(self.place_D)


def _round(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """int8, and the float32 scale along `dim` that makes them `values` again.

    Overwrites `values`. Adding a large number rounds to even as `round` does, in the pass that
    multiplies.
    """
    scale = _largest(values, dim) / _LARGEST
    rounder = values.new_tensor(_ROUNDER)
    torch.addcmul(rounder, values, scale.reciprocal().unsqueeze(dim), out=values)
    return values.view(torch.int32).to(torch.int8), scale


def _largest(values: Tensor, dim: int) -> Tensor:
    """Largest absolute value along `dim`; two plain passes are faster than torch's aminmax."""
    return torch.maximum(values.amax(dim), -values.amin(dim)).clamp_(min=_TINY)
