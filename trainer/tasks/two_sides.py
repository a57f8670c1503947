"""The model of retrieval: a side network for the items, one for the texts, one space.

B texts, I items, N packed rows, E width of the space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

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
        projected: Tensor = self.projection(self.dropout(self._pooled(batch)))
        return scale_to_unit(projected.float())

    def _pooled(self, batch: FeatureBatch) -> Tensor:
        if not (self.training and self.drop_rows):
            return self.network.pooled(batch, self.pooling)
        features = self.network(batch)
        # Seeded from the step's own numbers, so that a resumed run draws the same.
        seed = int(torch.randint(2**62, ()))
        generator = torch.Generator(features.rows.device).manual_seed(seed)
        kept_N = keep_at_random(features.layout, self.drop_rows, generator)
        pooled: Tensor = self.pooling(*select_rows(features.rows, features.layout, kept_N))
        return pooled


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


def across_processes(output: Embeddings) -> Embeddings:
    """The pairs of all processes in the order of their ranks, an item repeated for each text.

    Every process must call it with equally many texts. All of them then take the same loss of
    all pairs, and gradients that are averaged over the processes are those of that loss.

    Source: CLIP4Clip gathers likewise, but takes the gradient of its own part only, which the
    average divides by the number of processes.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return output
    items_BE = _Gathered.apply(output.items.index_select(0, output.item_of_text))
    texts_BE = _Gathered.apply(output.texts)
    ids_B = _gather(output.item_ids.index_select(0, output.item_of_text))
    places_B = torch.arange(len(ids_B), device=ids_B.device)
    return Embeddings(items_BE, texts_BE, places_B, ids_B, output.log_scale)


def _gather(local: Tensor) -> Tensor:
    parts = [torch.empty_like(local) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, local.contiguous())
    return torch.cat(parts)


class _Gathered(torch.autograd.Function):
    """The rows of all processes; the gradient is the sum of those of all of them."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.num_rows = len(local)
        return _gather(local)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # All processes take the same loss of the same rows, so the sum is a multiple of the own.
        start = distributed.get_rank() * ctx.num_rows
        own = gradient[start : start + ctx.num_rows]
        return own * distributed.get_world_size()
