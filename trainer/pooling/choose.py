"""Pooling by name, as configurations spell it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from cache_schema import RowLayout

from .base import Pooling
from .frames import mean_of_frames
from .generalized import GeneralizedPooling
from .reduce import first, last, mean

PoolingName = Literal["mean", "first", "last", "frames", "gpo"]


class RowReduction(Pooling):
    """A pooling function as a module without parameters."""

    def __init__(
        self, reduce: Callable[[Tensor, RowLayout], Tensor], *, is_weighted_mean: bool
    ) -> None:
        super().__init__()
        self.reduce = reduce
        self.is_weighted_mean = is_weighted_mean

    def forward(self, rows_NE: Tensor, layout: RowLayout) -> Tensor:
        """Pool packed rows to (B, E), in float32 or wider."""
        return self.reduce(rows_NE, layout)


def build_pooling(name: PoolingName) -> Pooling:
    """A module that maps packed rows (N, E) and their layout to (B, E)."""
    if name == "gpo":
        return GeneralizedPooling()
    if name == "frames":
        return RowReduction(_frames, is_weighted_mean=False)
    return RowReduction({"mean": mean, "first": first, "last": last}[name], is_weighted_mean=True)


def _frames(rows_NE: Tensor, layout: RowLayout) -> Tensor:
    """Mean of unit vectors, of length 1 again: rows are the frames of a video."""
    dtype = torch.promote_types(rows_NE.dtype, torch.float32)
    return mean_of_frames(layout.pad(rows_NE.to(dtype)), layout.mask())
