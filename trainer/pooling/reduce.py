"""Pooling without parameters: the mean of each sample's rows, or one of them.

N packed rows, B samples, E features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cache_schema import RowLayout


def mean(rows_NE: Tensor, layout: RowLayout) -> Tensor:
    """Average each sample's rows: (B, E), summed in float32 or wider."""
    dtype = _wide(rows_NE)
    sums_BE = layout.pad(rows_NE).sum(dim=1, dtype=dtype)
    return sums_BE / layout.lengths.to(dtype)[:, None]


def first(rows_NE: Tensor, layout: RowLayout) -> Tensor:
    """Each sample's first row, such as BERT's [CLS]: (B, E), float32 or wider."""
    return pick(rows_NE, layout.first_rows())


def last(rows_NE: Tensor, layout: RowLayout) -> Tensor:
    """Each sample's last row, such as the newest token of GPT-2: (B, E), float32 or wider."""
    return pick(rows_NE, layout.last_rows())


def pick(rows_NE: Tensor, chosen_B: Tensor) -> Tensor:
    """These rows: (B, E), float32 or wider."""
    return rows_NE.index_select(0, chosen_B).to(_wide(rows_NE))


def _wide(rows: Tensor) -> torch.dtype:
    return torch.promote_types(rows.dtype, torch.float32)
