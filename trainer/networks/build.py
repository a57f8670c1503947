"""From a network's settings and a cache's streams to the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from cache_schema import StreamSpec

from .base import SideNetwork
from .embedding import EmbeddingUniPT
from .encoder_decoder import EncoderDecoderUniPT
from .ladder import Ladder, LadderConfig
from .maps import MapUniPT
from .options import UniPTConfig
from .probe import MLPProbe, MLPProbeConfig, Probe, ProbeConfig, WeightedSum, WeightedSumConfig
from .unipt import TokenUniPT

UNIPT_STRUCTURES = {
    "tokens": TokenUniPT,
    "maps": MapUniPT,
    "embedding": EmbeddingUniPT,
    "encoder-decoder": EncoderDecoderUniPT,
}

NetworkConfig = Annotated[
    UniPTConfig | LadderConfig | ProbeConfig | MLPProbeConfig | WeightedSumConfig,
    Field(discriminator="name"),
]
"""Settings of any network, told apart by `name`."""


def build_network(config: NetworkConfig, streams: Sequence[StreamSpec]) -> SideNetwork:
    """Make a freshly initialised network that reads these streams.

    Raises:
        IncompatibleNetworkError: It cannot read them.
    """
    match config:
        case UniPTConfig():
            return UNIPT_STRUCTURES[config.structure](config, streams)
        case LadderConfig():
            return Ladder(config, streams)
        case ProbeConfig():
            return Probe(config, streams)
        case MLPProbeConfig():
            return MLPProbe(config, streams)
        case WeightedSumConfig():
            return WeightedSum(config, streams)
