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
from .reduce import mean, pick

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


class RowPick(Pooling):
    """One row of each sample; it has no parameters."""

    is_weighted_mean = True

    def __init__(self, rows_of: Callable[[RowLayout], Tensor]) -> None:
        super().__init__()
        self._rows_of = rows_of

    def picked(self, layout: RowLayout) -> Tensor:
        """(B,) int64 packed rows."""
        return self._rows_of(layout)

    def forward(self, rows_NE: Tensor, layout: RowLayout) -> Tensor:
        """Pick from packed rows: (B, E), in float32 or wider."""
        return pick(rows_NE, self.picked(layout))


def build_pooling(name: PoolingName) -> Pooling:
    """A module that maps packed rows (N, E) and their layout to (B, E)."""
    if name == "gpo":
        return GeneralizedPooling()
    if name == "frames":
        return RowReduction(_frames, is_weighted_mean=False)
    if name == "mean":
        return RowReduction(mean, is_weighted_mean=True)
    return RowPick(RowLayout.first_rows if name == "first" else RowLayout.last_rows)


def _frames(rows_NE: Tensor, layout: RowLayout) -> Tensor:
    """Mean of unit vectors, of length 1 again: rows are the frames of a video."""
    dtype = torch.promote_types(rows_NE.dtype, torch.float32)
    return mean_of_frames(layout.pad(rows_NE.to(dtype)), layout.mask())
