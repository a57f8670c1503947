"""The trained module of a run, from its settings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cache_schema import StreamSpec

from .config import FitConfig
from .networks import build_network
from .pooling import build_pooling
from .tasks import ModelParts, Task


def build_model(config: FitConfig, task: Task, streams: Sequence[StreamSpec]) -> nn.Module:
    """A freshly initialised model; its weights are a function of `config.seed`.

    Raises:
        IncompatibleNetworkError: The network does not fit these streams.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_network(config.network, streams)
        parts = ModelParts(network, build_pooling(config.pooling), config.dropout)
        return task.make_model(parts)


def num_parameters(model: nn.Module) -> int:
    """Trained numbers."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
