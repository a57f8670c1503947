"""Texts as encoders take them that read something else beside.

B samples, T tokens of the longest text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cache_schema import RowLayout

from .base import Prepared
from .packing import pad_ids
from .text_model import SEGMENT_IDS, TOKEN_IDS


@dataclass(frozen=True, eq=False)
class PaddedText:
    """Texts on the model's device.

    Attributes:
        ids: (B, T) int64.
        segments: (B, T) int64, 0 where a model does not tell segments apart.
        mask: (B, T) int64, 1 where a token is real.
        layout: Which tokens are real, on the CPU.
    """

    ids: Tensor
    segments: Tensor
    mask: Tensor
    layout: RowLayout


def pad_text(prepared: Prepared, rows: np.ndarray, pad_id: int, device: torch.device) -> PaddedText:
    """The texts of these samples."""
    ids = prepared.ragged(TOKEN_IDS).take(rows)
    layout = RowLayout.from_lengths(ids.lengths)
    segments = torch.zeros(layout.num_samples, layout.max_length, dtype=torch.int64)
    if SEGMENT_IDS in prepared.inputs:
        segments = pad_ids(prepared.ragged(SEGMENT_IDS).take(rows), layout, 0)
    return PaddedText(
        pad_ids(ids, layout, pad_id).to(device),
        segments.to(device),
        layout.mask().long().to(device),
        layout,
    )
