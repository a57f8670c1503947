"""The parts of UniPT after the interaction, and the block they make with it.

N packed rows, G guided layers, R reduced width, E output width, A anchor width.
"""

from __future__ import annotations

from torch import Tensor, nn

from .base import IncompatibleNetworkError
from .interaction import ParallelInteraction
from .options import UniPTConfig
from .places import Places
from .reduction import LAYER_NORM_EPS


def row_norm(config: UniPTConfig, width: int) -> nn.Module:
    """The configured normalisation of (N, R) rows."""
    if config.norm == "layer":
        return nn.LayerNorm(width, eps=LAYER_NORM_EPS)
    return nn.BatchNorm1d(width) if config.norm == "batch" else nn.Identity()


def reduced_width(config: UniPTConfig, out_width: int) -> int:
    """R, the output width over the reduction factor.

    Raises:
        IncompatibleNetworkError: Less than one number is left, or the heads do not divide it.
    """
    reduced = out_width // config.reduction
    if reduced < 1 or reduced % config.heads:
        raise IncompatibleNetworkError(
            f"network unipt: width {out_width} with reduction {config.reduction} and "
            f"{config.heads} heads gives a reduced width of {reduced}, needed at least 1 and a "
            "multiple of the heads. Choose a smaller network.reduction or other network.heads."
        )
    return reduced


class FeedForward(nn.Module):
    """What happens to the mixed layers before the anchor is added: (N, R) to (N, R)."""

    def __init__(self, config: UniPTConfig, reduced: int, hidden: int) -> None:
        super().__init__()
        self.hidden: nn.Module = nn.Identity()
        if config.feed_forward == "mlp":
            self.hidden = nn.Sequential(nn.Linear(reduced, hidden, bias=config.bias), nn.ReLU())
        width = hidden if config.feed_forward == "mlp" else reduced
        self.output = nn.Linear(width, reduced, bias=config.bias)
        self.norm = row_norm(config, reduced)

    def forward(self, rows_NR: Tensor) -> Tensor:
        """(N, R)."""
        rows: Tensor = self.norm(self.output(self.hidden(rows_NR)))
        return rows


class ParallelBlock(nn.Module):
    """Interaction, feed-forward and the reduced residual."""

    def __init__(self, config: UniPTConfig, num_layers: int, reduced: int, hidden: int) -> None:
        super().__init__()
        self.interaction = ParallelInteraction(config, num_layers, reduced)
        self.feed_forward: nn.Module = nn.Identity()
        if config.feed_forward != "none":
            self.feed_forward = FeedForward(config, reduced, hidden)
        self.add_anchor = config.residual == "reduced"

    def forward(
        self, anchor_NR: Tensor, guided_NGR: Tensor, queries: Places, keys: Places
    ) -> tuple[Tensor, Tensor]:
        """Read the guided rows with the anchor's.

        Args:
            anchor_NR: One row per query.
            guided_NGR: One row per key.
            queries: Where the query rows sit.
            keys: Where the key rows sit; the same samples in the same order.

        Returns:
            (N, R) rows of the queries, and (B, G) confidence.
        """
        mixed = self.interaction(queries.pad(anchor_NR), keys.pad(guided_NGR), queries, keys)
        rows_NR: Tensor = self.feed_forward(queries.pack(mixed.rows))
        return (anchor_NR + rows_NR if self.add_anchor else rows_NR), mixed.confidence


class Upsample(nn.Module):
    """The last projection: (N, R) to (N, E)."""

    def __init__(self, config: UniPTConfig, reduced: int, out_width: int) -> None:
        super().__init__()
        self.activate = config.activate_output
        self.linear = nn.Linear(reduced, out_width, bias=config.bias)
        self.norm = nn.LayerNorm(out_width) if config.output_norm else nn.Identity()

    def forward(self, rows_NR: Tensor) -> Tensor:
        """(N, E)."""
        rows: Tensor = self.norm(self.linear(rows_NR.relu() if self.activate else rows_NR))
        return rows
