"""Generalised pooling: learned weights over each feature's sorted values.

N packed rows, B samples, T rows of the longest sample, U different lengths, E features,
P width of the position table.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cache_schema import RowLayout

from .base import Pooling

TEMPERATURE = 0.1
"""Divides the scores before the softmax over ranks, as in the release of VSE-infinity."""


class GeneralizedPooling(Pooling):
    """Sort every feature of a sample and take a weighted sum by rank.

    The weights depend on the number of tokens only: a bidirectional GRU reads a sinusoidal table
    up to that length and scores each rank. Maximum, mean and median are special cases. Parameters
    carry the names of the authors' release (`gru.*`, `linear.weight`).

    Args:
        position_width: P, of the sinusoidal table.
        hidden_width: Of each direction of the GRU.

    Source: VSE-infinity's GPO as UniPT uses it (both widths 32). The GRU runs once for each
    different length instead of once for each sample, which gives the same numbers.
    """

    def __init__(self, position_width: int = 32, hidden_width: int = 32) -> None:
        super().__init__()
        self.position_width = position_width
        self.gru = nn.GRU(position_width, hidden_width, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(hidden_width, 1, bias=False)

    def forward(self, rows_NE: Tensor, layout: RowLayout) -> Tensor:
        """Pool packed rows to (B, E), in float32 or wider, under autocast too."""
        dtype = torch.promote_types(rows_NE.dtype, torch.float32)
        padding_BT1 = ~layout.mask()[:, :, None]
        values_BTE = layout.pad(rows_NE.to(dtype)).masked_fill(padding_BT1, -math.inf)
        sorted_BTE = values_BTE.sort(1, descending=True).values.masked_fill(padding_BT1, 0.0)
        # The scores are divided by 0.1 before a softmax: bfloat16 would cost two digits there.
        with torch.autocast(rows_NE.device.type, enabled=False):
            weights_B1T = self.rank_weights(layout).to(dtype)[:, None]
            return torch.bmm(weights_B1T, sorted_BTE).squeeze(1)

    def rank_weights(self, layout: RowLayout) -> Tensor:
        """The weight of each rank, largest value first: (B, T), 0 past a sample's length."""
        lengths_U, index_B = torch.unique(layout.lengths, return_inverse=True)
        weight = self.linear.weight
        table_TP = sinusoidal_table(layout.max_length, self.position_width).to(weight)
        packed = pack_padded_sequence(
            table_TP.expand(len(lengths_U), -1, -1),
            lengths_U.cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        states_UTH, _ = pad_packed_sequence(
            self.gru(packed)[0], batch_first=True, total_length=layout.max_length
        )
        forwards, backwards = states_UTH.chunk(2, dim=-1)
        scores_UT: Tensor = self.linear((forwards + backwards) / 2).squeeze(-1)
        is_real_UT = torch.arange(layout.max_length, device=weight.device) < lengths_U[:, None]
        weights_UT = (scores_UT / TEMPERATURE).masked_fill(~is_real_UT, -math.inf).softmax(1)
        return weights_UT.index_select(0, index_B)


def sinusoidal_table(length: int, width: int) -> Tensor:
    """Sines of the position in even columns, cosines in odd ones: (length, width) float32.

    Column pair j has frequency 10000^(-2j / width).
    """
    steps = torch.arange(0, width, 2, dtype=torch.float32)
    frequencies = torch.exp(steps * -(math.log(10000.0) / width))
    angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies
    table = torch.zeros(length, width)
    table[:, 0::2] = angles.sin()
    table[:, 1::2] = angles[:, : width // 2].cos()
    return table
