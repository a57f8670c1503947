"""From the padded states of a model to packed rows, and from ragged inputs to padded ones.

B samples, T positions of the longest, S other positions beside them, N packed rows, L layers,
D width, H height, W width of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cache_schema import Ragged, RowLayout


def pack_layers(
    states_BTD: Sequence[Tensor], layout: RowLayout, dtype: torch.dtype | None = None
) -> Tensor:
    """Real tokens of some layers as (N, L, D) in a dtype, that of the states if None.

    Layer by layer, so that a layer's rows are still in the core's cache when they are cast.
    """
    shape = (layout.num_rows, len(states_BTD), states_BTD[0].shape[-1])
    packed_NLD = states_BTD[0].new_empty(shape, dtype=dtype or states_BTD[0].dtype)
    for position, state_BTD in enumerate(states_BTD):
        rows_ND = state_BTD.flatten(0, 1)
        if not layout.is_dense:
            rows_ND = rows_ND.index_select(0, layout.positions)
        packed_NLD[:, position] = rows_ND
    return packed_NLD


def pad_ids(ids: Ragged, layout: RowLayout, fill: int) -> Tensor:
    """Token ids of the samples of a layout as (B, T) int64, on the CPU."""
    grid = np.full(layout.num_samples * layout.max_length, fill, dtype=np.int64)
    grid[layout.positions.numpy()] = ids.values
    return torch.from_numpy(grid.reshape(layout.num_samples, layout.max_length))


def side_by_side(text: RowLayout, counts: np.ndarray) -> RowLayout:
    """Where the rows of each sample lie in (B, T + S): text from the left, others from T on.

    Args:
        text: The texts, the longest of which has T tokens.
        counts: (B,) int64, the other rows of each sample, at most S.
    """
    width = text.max_length + int(counts.max())
    positions = [
        at * width + np.concatenate([np.arange(words), text.max_length + np.arange(others)])
        for at, (words, others) in enumerate(
            zip(text.lengths.tolist(), counts.tolist(), strict=True)
        )
    ]
    lengths = text.lengths + torch.from_numpy(counts)
    return RowLayout(lengths, width, torch.from_numpy(np.concatenate(positions)))


def rows_of_map(map_BDHW: Tensor) -> Tensor:
    """A map as (B, H * W, D) rows, one line after the other."""
    return map_BDHW.flatten(2).transpose(1, 2)
