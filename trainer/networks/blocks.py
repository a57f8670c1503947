"""The parts of UniPT around the interaction, and the path they make together.

N packed rows (M of the keys), L stored layers, G guided layers, D backbone width, R reduced
width, E output width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .interaction import ParallelInteraction
from .options import UniPTConfig
from .per_layer import LAYER_NORM_EPS, PerLayerLinear, RowBatchNorm
from .places import Places


def per_layer_linear(
    config: UniPTConfig, width: int, reduced: int, positions: Sequence[int]
) -> PerLayerLinear:
    """Reduces these stored layers with the configured norm, bias and activation."""
    return PerLayerLinear(
        width,
        reduced,
        positions,
        norm=config.norm,
        bias=config.bias,
        activate=config.activate_input,
    )


class FeedForward(nn.Module):
    """What happens to the mixed layers before the anchor is added: (N, R) to (N, R)."""

    def __init__(self, config: UniPTConfig, reduced: int, hidden: int) -> None:
        super().__init__()
        self.hidden: nn.Module = nn.Identity()
        if config.feed_forward == "mlp":
            self.hidden = nn.Sequential(nn.Linear(reduced, hidden, bias=config.bias), nn.ReLU())
        width = hidden if config.feed_forward == "mlp" else reduced
        self.output = nn.Linear(width, reduced, bias=config.bias)
        self.norm: nn.Module = nn.Identity()
        if config.norm == "layer":
            self.norm = nn.LayerNorm(reduced, eps=LAYER_NORM_EPS)
        elif config.norm == "batch":
            self.norm = RowBatchNorm(reduced)

    def forward(self, rows_NR: Tensor) -> Tensor:
        """(N, R)."""
        rows: Tensor = self.norm(self.output(self.hidden(rows_NR)))
        return rows


class ParallelBlock(nn.Module):
    """Interaction, feed-forward and the residual, all at the reduced width."""

    def __init__(self, config: UniPTConfig, num_layers: int, reduced: int, hidden: int) -> None:
        super().__init__()
        self.interaction = ParallelInteraction(config, num_layers, reduced)
        self.feed_forward: nn.Module = nn.Identity()
        if config.feed_forward != "none":
            self.feed_forward = FeedForward(config, reduced, hidden)
        self.add_anchor = config.residual == "reduced"

    def forward(
        self, anchor_NR: Tensor, guided_MGR: Tensor, queries: Places, keys: Places
    ) -> tuple[Tensor, Tensor]:
        """Read the guided rows with the anchor's.

        Args:
            anchor_NR: One row per query.
            guided_MGR: One row per key.
            queries: Where the query rows sit, and whose output is wanted.
            keys: Where the key rows sit; the same samples in the same order.

        Returns:
            (N, R) rows of the queries, or (B, R) of the wanted ones, and (B, G) confidence.
        """
        mixed = self.interaction(anchor_NR, guided_MGR, queries, keys)
        rows_NR: Tensor = self.feed_forward(queries.pack_wanted(mixed.rows))
        if self.add_anchor:
            rows_NR = queries.wanted(anchor_NR) + rows_NR
        return rows_NR, mixed.confidence


Reduce = Callable[[Tensor], Tensor]
"""(N, X) rows to fewer ones, each a weighted mean of some, whatever X is."""


class Upsample(nn.Module):
    """The last projection: (..., R) to (..., E)."""

    def __init__(self, config: UniPTConfig, reduced: int, width: int) -> None:
        super().__init__()
        self.activate = config.activate_output
        self.linear = nn.Linear(reduced, width, bias=config.bias)
        self.norm: nn.Module = nn.Identity()
        if config.output_norm:
            self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPS)

    def forward(self, rows: Tensor, reduce: Reduce | None = None) -> Tensor:
        """(..., E), of what `reduce` leaves of the rows."""
        rows = rows.relu() if self.activate else rows
        upsampled: Tensor = self.norm(self.linear(rows if reduce is None else reduce(rows)))
        return upsampled


class ParallelPath(nn.Module):
    """Reduction of all layers, block and upsampling: hidden states in, output rows out."""

    def __init__(
        self,
        config: UniPTConfig,
        *,
        anchor: tuple[int, int],
        guided: Sequence[tuple[int, Sequence[int]]],
        reduced: int,
        width: int,
    ) -> None:
        """Make a path of these sizes.

        Args:
            config: The options.
            anchor: D of the anchor's stream, and where its layer is stored.
            guided: D and stored positions of the guided layers, for each stream that has any.
            reduced: R.
            width: E.
        """
        super().__init__()
        anchor_width, position = anchor
        self.anchor = per_layer_linear(config, anchor_width, reduced, (position,))
        self.guided = nn.ModuleList(
            per_layer_linear(config, stream_width, reduced, positions)
            for stream_width, positions in guided
        )
        self.guided_counts = tuple(len(positions) for _, positions in guided)
        self.block = ParallelBlock(config, sum(self.guided_counts), reduced, width)
        self.upsample = Upsample(config, reduced, width)
        self.full_residual = config.residual == "anchor"
        # Batch statistics, and layers that read themselves, need all rows.
        self.is_row_by_row = config.norm != "batch" and config.interaction != "self"

    @property
    def ends_affine(self) -> bool:
        """Whether means of output rows are the outputs of means of the rows before."""
        return isinstance(self.upsample.norm, nn.Identity)

    def forward(
        self,
        anchor_NLD: Tensor,
        guided_MLD: Sequence[Tensor],
        queries: Places,
        keys: Places,
        reduce: Reduce | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(N, E) rows of the queries, and (B, G) confidence.

        Args:
            anchor_NLD: The stream with the anchor.
            guided_MLD: The streams with guided layers.
            queries: Where the anchor's rows sit. Only the rows wanted there are worked out:
                (B, E). None may be left out unless the path `is_row_by_row`.
            keys: Where the guided rows sit.
            reduce: Applied to the rows before the last linear map, which then has fewer to map:
                (B, E) instead of (N, E). Only where the path `ends_affine`.
        """
        anchor_NR = self.anchor(anchor_NLD).squeeze(1)
        parts = [
            reduction(values) for reduction, values in zip(self.guided, guided_MLD, strict=True)
        ]
        guided_MGR = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        rows_NR, confidence_BG = self.block(anchor_NR, guided_MGR, queries, keys)
        rows_NE: Tensor = self.upsample(rows_NR, reduce)
        if self.full_residual:
            last_ND = queries.wanted(anchor_NLD[:, self.anchor.positions[0]])
            rows_NE = rows_NE + (last_ND if reduce is None else reduce(last_ND)).to(rows_NE)
        return rows_NE, confidence_BG
