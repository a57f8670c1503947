"""UniPT for layers that share token positions.

B samples, N packed rows, G guided layers, L stored layers, D backbone width, E output width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from cache_schema import FeatureBatch, StreamSpec

from ..pooling import Pooling
from .base import RowMasks, SideFeatures, SideNetwork, check_same_rows, pick_streams, wide
from .blocks import ParallelPath, Reduce
from .options import UniPTConfig
from .places import Places
from .setup import guided_layers, initialise, output_width, reduced_width


class TokenUniPT(SideNetwork):
    """UniPT where all streams share the token positions of the last one."""

    def __init__(self, config: UniPTConfig, streams: Sequence[StreamSpec]) -> None:
        super().__init__()
        self.preset = config.preset
        chosen = pick_streams(config.name, config.streams, streams)
        anchor = chosen[-1]
        self.streams = tuple(stream.name for stream in chosen)
        guided = guided_layers(config, chosen, anchor)
        self.guided_streams = tuple(guided)
        self.row_stream = anchor.name
        self.out_width = output_width(config, anchor)
        self.path = ParallelPath(
            config,
            anchor=(anchor.width, len(anchor.layers) - 1),
            guided=[(s.width, guided[s.name]) for s in chosen if s.name in guided],
            reduced=reduced_width(config, self.out_width),
            width=self.out_width,
        )
        initialise(self, config.initialisation)

    def forward(self, batch: FeatureBatch, masks: RowMasks | None = None) -> SideFeatures:
        """(N, E) rows at the token positions, and (B, G) confidence."""
        rows_NE, confidence_BG = self._read(batch, masks)
        anchor = batch.streams[self.streams[-1]]
        return SideFeatures(rows_NE, anchor.layout, confidence=confidence_BG, grid=anchor.grid)

    def pooled(self, batch: FeatureBatch, pooling: Pooling) -> Tensor:
        """(B, E): worked out for the picked rows alone where the pooling picks one per sample.

        Where it is another weighted mean, upsampled after it, B rows and not N.
        """
        layout = batch.streams[self.streams[-1]].layout
        picked_B = pooling.picked(layout)
        if picked_B is not None and self.path.is_row_by_row:
            return wide(self._read(batch, None, kept=picked_B)[0])
        if pooling.is_weighted_mean and self.path.ends_affine:
            return wide(self._read(batch, None, lambda rows_NX: pooling(rows_NX, layout))[0])
        return super().pooled(batch, pooling)

    def _read(
        self,
        batch: FeatureBatch,
        masks: RowMasks | None,
        reduce: Reduce | None = None,
        kept: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        check_same_rows("unipt", self.streams, batch)
        anchor = batch.streams[self.streams[-1]]
        places = Places(anchor.layout, (masks or {}).get(self.streams[-1]))
        queries = replace(places, kept=kept)
        guided_NLD = [batch.streams[name].values for name in self.guided_streams]
        rows, confidence_BG = self.path(anchor.values, guided_NLD, queries, places, reduce)
        return rows, confidence_BG
