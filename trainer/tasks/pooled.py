"""The model of most tasks: side network, pooling and head in a row.

B samples, E pooled width, O outputs of the task.
"""

from __future__ import annotations

from torch import Tensor, nn

from cache_schema import FeatureBatch

from .base import ModelParts


class PooledModel(nn.Module):
    """From the hidden states of a batch to the output of a task."""

    def __init__(self, parts: ModelParts, head: nn.Module) -> None:
        super().__init__()
        self.network = parts.network
        self.pooling = parts.pooling
        self.dropout = nn.Dropout(parts.dropout)
        self.head = head

    def forward(self, batch: FeatureBatch) -> Tensor:
        """(B, O)."""
        pooled_BE = self.network.pooled(batch, self.pooling)
        output: Tensor = self.head(self.dropout(pooled_BE))
        return output
