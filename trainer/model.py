"""The trained module of a run, from its settings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cache_schema import StreamSpec

from .config import FitConfig
from .networks import build_network
from .pooling import build_pooling
from .tasks import ModelParts, RetrievalConfig, SideParts, Task


def build_model(config: FitConfig, task: Task, sides: Sequence[Sequence[StreamSpec]]) -> nn.Module:
    """A freshly initialised model; its weights are a function of `config.seed`.

    Args:
        config: Names networks and poolings.
        task: Has seen the training targets.
        sides: Streams of each cache that it reads.

    Raises:
        IncompatibleNetworkError: The network does not fit these streams.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_network(config.network, sides[0])
        usual = config.pooling or config.task.usual_pooling or "mean"
        pooling = build_pooling(usual)
        texts = None
        if isinstance(config.task, RetrievalConfig):
            chosen = config.task.text_network or config.network
            texts = SideParts(
                build_network(chosen, sides[1]),
                build_pooling(config.task.text_pooling or usual),
            )
        return task.make_model(ModelParts(network, pooling, config.dropout, texts, tuple(sides[0])))


def num_parameters(model: nn.Module) -> int:
    """Trained numbers."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
