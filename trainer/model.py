"""Side network, pooling and head as one trained module.

B samples, E pooled width, O outputs of the task.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cache_schema import FeatureBatch, StreamSpec

from .config import FitConfig
from .networks import SideNetwork, build_network
from .pooling import build_pooling
from .tasks import Task


class TaskModel(nn.Module):
    """From the hidden states of a batch to the output of a task."""

    def __init__(
        self, network: SideNetwork, pooling: nn.Module, head: nn.Module, dropout: float
    ) -> None:
        super().__init__()
        self.network = network
        self.pooling = pooling
        self.dropout = nn.Dropout(dropout)
        self.head = head

    def forward(self, batch: FeatureBatch) -> Tensor:
        """(B, O)."""
        features = self.network(batch)
        pooled_BE = self.pooling(features.rows, features.layout)
        output: Tensor = self.head(self.dropout(pooled_BE))
        return output


def build_model(config: FitConfig, task: Task, streams: Sequence[StreamSpec]) -> TaskModel:
    """A freshly initialised model; its weights are a function of `config.seed`.

    Raises:
        IncompatibleNetworkError: The network does not fit these streams.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_network(config.network, streams)
        pooling = build_pooling(config.pooling)
        return TaskModel(network, pooling, task.make_head(network.out_width), config.dropout)


def num_parameters(model: nn.Module) -> int:
    """Trained numbers."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
