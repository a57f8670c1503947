"""Packed rows of one stream seen as padded tensors, with the rows that count.

B samples, T tokens of the longest sample, N packed rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cache_schema import RowLayout

from .base import IncompatibleNetworkError


@dataclass(frozen=True, eq=False)
class Places:
    """Where rows sit, and which of them may be read.

    Attributes:
        layout: Which row belongs to which sample.
        mask: (N,) bool: False for rows that no row may read and no mean counts; None: all count.
        kept: (B,) int64: of queries, the one row of each sample whose output is wanted, which
            is then the only one worked out; None: all of them.
    """

    layout: RowLayout
    mask: Tensor | None = None
    kept: Tensor | None = None

    def pad(self, rows: Tensor) -> Tensor:
        """(N, ...) as (B, T, ...), zeros at padded places."""
        return self.layout.pad(rows)

    def pack(self, padded: Tensor) -> Tensor:
        """(B, T, ...) as (N, ...)."""
        return self.layout.pack(padded)

    def wanted(self, rows: Tensor) -> Tensor:
        """(N, ...) as those whose output is wanted: (B, ...), or all."""
        return rows if self.kept is None else rows.index_select(0, self.kept)

    def pad_wanted(self, rows: Tensor) -> Tensor:
        """(N, ...) as (B, 1, ...), or padded where all are wanted."""
        return self.pad(rows) if self.kept is None else self.wanted(rows)[:, None]

    def pack_wanted(self, padded: Tensor) -> Tensor:
        """What `pad_wanted` gave as rows."""
        return self.pack(padded) if self.kept is None else padded.squeeze(1)

    def num_wanted(self) -> Tensor:
        """(B,) int64 outputs of each sample."""
        lengths = self.layout.lengths
        return lengths if self.kept is None else torch.ones_like(lengths)

    def readable(self) -> Tensor:
        """(B, T) bool: True where a row counts."""
        return self.layout.mask() if self.mask is None else self.layout.pad(self.mask)

    def share(self, dtype: torch.dtype) -> Tensor:
        """(B, T) weights of a sample's mean: 1 / count where a row counts, else 0.

        A sample whose rows are all masked out gets zeros, so that its means are 0, not NaN as in
        the authors' code (CLIP4Clip aside, which clamps the count at 1 as here).
        """
        readable_BT = self.readable()
        return readable_BT.to(dtype) / readable_BT.sum(1, keepdim=True).clamp(min=1)

    def last(self) -> Tensor:
        """(B, T) bool: True at the last row of each sample that counts."""
        steps_T = torch.arange(self.layout.max_length, device=self.layout.lengths.device)
        last_B = torch.where(self.readable(), steps_T, -1).amax(dim=1)
        return steps_T == last_B[:, None]


def evenly_split(layout: RowLayout, num_parts: int) -> RowLayout:
    """The rows of all samples cut into `num_parts` runs of equal length: the frames of videos.

    Needs no look at tensor contents, so it costs no synchronisation with an accelerator.

    Raises:
        IncompatibleNetworkError: The rows do not divide evenly.
    """
    length, rest = divmod(layout.num_rows, num_parts)
    if rest or not length:
        raise IncompatibleNetworkError(
            f"network unipt: {layout.num_rows} rows for {num_parts} projected embeddings, needed "
            "equally many tokens for each. Set network.streams to the stream that the embeddings "
            "were projected from, and then that of the embeddings."
        )
    device = layout.positions.device
    return RowLayout(
        torch.full((num_parts,), length, device=device),
        length,
        torch.arange(layout.num_rows, device=device),
    )
