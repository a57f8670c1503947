"""Leaves out random rows of each sample while training, such as cells of an image grid.

N packed rows, M rows that stay, B samples, T rows of the longest sample, E features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cache_schema import RowLayout


def keep_at_random(layout: RowLayout, rate: float, generator: torch.Generator) -> Tensor:
    """Keep each row with probability 1 - rate, and at least one row of every sample: (N,) bool.

    The generator is on the layout's device.

    Source: VSE-infinity drops 20 % of the grid cells, and draws a sample again when it lost all.
    """
    mask_BT = layout.mask()
    kept_BT = torch.zeros_like(mask_BT)
    empty_B = torch.ones_like(layout.lengths, dtype=torch.bool)
    while bool(empty_B.any()):
        draws_BT = torch.rand(mask_BT.shape, generator=generator, device=mask_BT.device) >= rate
        kept_BT = torch.where(empty_B[:, None], draws_BT & mask_BT, kept_BT)
        empty_B = ~kept_BT.any(dim=1)
    return layout.pack(kept_BT)


def select_rows(rows_NE: Tensor, layout: RowLayout, kept_N: Tensor) -> tuple[Tensor, RowLayout]:
    """The rows that stay, in order, with their layout: (M, E) and lengths that sum to M.

    Raises:
        ValueError: A sample keeps no row.
    """
    lengths_B = layout.pad(kept_N.to(torch.int64)).sum(dim=1)
    shorter = RowLayout.from_lengths(lengths_B.cpu()).to(rows_NE.device)
    return rows_NE[kept_N], shorter
