"""What every pooling takes and gives.

N packed rows, B samples, E features.
"""

from __future__ import annotations

from torch import Tensor, nn

from cache_schema import RowLayout


class Pooling(nn.Module):
    """From one vector for each row to one for each sample.

    Attributes:
        is_weighted_mean: Whether every output is a weighted mean of a sample's rows with weights
            that do not depend on them, so that a linear map may as well come after it.
    """

    is_weighted_mean: bool = False

    def picked(self, layout: RowLayout) -> Tensor | None:
        """(B,) int64, which packed row is each sample's output; None if it is made of several."""
        del layout
        return None

    def forward(self, rows_NE: Tensor, layout: RowLayout) -> Tensor:
        """Pool packed rows to (B, E), in float32 or wider."""
        raise NotImplementedError
