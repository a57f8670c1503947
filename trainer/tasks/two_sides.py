"""The model of retrieval: a side network for the items, one for the texts, one space.

B texts, I items, N packed rows, E width of the space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cache_schema import FeatureBatch, PairedBatch

from ..heads import scale_to_unit
from ..pooling import keep_at_random, select_rows
from .base import SideParts

_LARGEST_SCALE = math.log(100)  # where CLIP holds its learned scale


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Both sides of a batch in one space.

    Attributes:
        items: (I, E) float32, length 1.
        texts: (B, E) float32, length 1.
        item_of_text: (B,) int64, the row of each text's item.
        item_ids: (I,) int64, numbers of the items in their cache.
        log_scale: Scalar, logarithm of what cosines are multiplied by.
    """

    items: Tensor
    texts: Tensor
    item_of_text: Tensor
    item_ids: Tensor
    log_scale: Tensor


class SideEncoder(nn.Module):
    """From the hidden states of one side to unit vectors.

    Args:
        parts: Side network and pooling.
        width: E.
        dropout: Share of the pooled features dropped.
        drop_rows: Share of the rows left out before the pooling, in training.
        project: Map to `width` also where the network is that wide.
    """

    def __init__(
        self,
        parts: SideParts,
        width: int,
        dropout: float,
        *,
        drop_rows: float = 0.0,
        project: bool = False,
    ) -> None:
        super().__init__()
        self.network = parts.network
        self.pooling = parts.pooling
        self.dropout = nn.Dropout(dropout)
        self.drop_rows = drop_rows
        is_needed = project or parts.network.out_width != width
        self.projection = nn.Linear(parts.network.out_width, width) if is_needed else nn.Identity()

    def forward(self, batch: FeatureBatch) -> Tensor:
        """(samples, E) float32."""
        features = self.network(batch)
        rows_NE, layout = features.rows, features.layout
        if self.training and self.drop_rows:
            # Seeded from the step's own numbers, so that a resumed run draws the same.
            seed = int(torch.randint(2**62, ()))
            generator = torch.Generator(rows_NE.device).manual_seed(seed)
            kept_N = keep_at_random(layout, self.drop_rows, generator)
            rows_NE, layout = select_rows(rows_NE, layout, kept_N)
        pooled = self.pooling(rows_NE, layout)
        projected: Tensor = self.projection(self.dropout(pooled))
        return scale_to_unit(projected.float())


class TwoSides(nn.Module):
    """Items and texts, each through its own encoder.

    Args:
        items: Of the images or videos.
        texts: Of the texts.
        log_scale: Logarithm of what cosines are multiplied by.
        learn_scale: Whether it is trained.
    """

    log_scale: Tensor

    def __init__(
        self, items: SideEncoder, texts: SideEncoder, log_scale: float, *, learn_scale: bool
    ) -> None:
        super().__init__()
        self.items = items
        self.texts = texts
        start = torch.tensor(log_scale)
        if learn_scale:
            self.log_scale = nn.Parameter(start)
        else:
            self.register_buffer("log_scale", start, persistent=False)

    def forward(self, batch: PairedBatch) -> Embeddings:
        """Each item and each text once."""
        return Embeddings(
            self.items(batch.items),
            self.texts(batch.texts),
            batch.item_of_text,
            batch.items.sample_ids,
            self.log_scale.clamp(max=_LARGEST_SCALE),
        )
