"""From the padded states of a model to packed rows, and from ragged inputs to padded ones.

B samples, T positions of the longest, N packed rows, L layers, D width, H height, W width of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cache_schema import Ragged, RowLayout


def pack_layers(states_BTD: Sequence[Tensor], layout: RowLayout) -> Tensor:
    """Real tokens of some layers as (N, L, D): each layer is read once and written once."""
    width, dtype = states_BTD[0].shape[-1], states_BTD[0].dtype
    packed_NLD = states_BTD[0].new_empty((layout.num_rows, len(states_BTD), width), dtype=dtype)
    for position, state_BTD in enumerate(states_BTD):
        target_ND = packed_NLD[:, position]
        if layout.is_dense:
            target_ND.copy_(state_BTD.flatten(0, 1))
        else:
            torch.index_select(state_BTD.flatten(0, 1), 0, layout.positions, out=target_ND)
    return packed_NLD


def pad_ids(ids: Ragged, layout: RowLayout, fill: int) -> Tensor:
    """Token ids of the samples of a layout as (B, T) int64, on the CPU."""
    grid = np.full(layout.num_samples * layout.max_length, fill, dtype=np.int64)
    grid[layout.positions.numpy()] = ids.values
    return torch.from_numpy(grid.reshape(layout.num_samples, layout.max_length))


def rows_of_map(map_BDHW: Tensor) -> Tensor:
    """A map as (B, H * W, D) rows, one line after the other."""
    return map_BDHW.flatten(2).transpose(1, 2)
