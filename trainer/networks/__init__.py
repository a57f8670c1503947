"""Side networks: what is trained beside a frozen backbone."""

from .base import (
    IncompatibleNetworkError,
    NetworkOptions,
    RowMasks,
    SideFeatures,
    SideNetwork,
)
from .build import NetworkConfig, build_network
from .options import UniPTConfig
from .probe import MLPProbeConfig, ProbeConfig, WeightedSumConfig

__all__ = [
    "IncompatibleNetworkError",
    "MLPProbeConfig",
    "NetworkConfig",
    "NetworkOptions",
    "ProbeConfig",
    "RowMasks",
    "SideFeatures",
    "SideNetwork",
    "UniPTConfig",
    "WeightedSumConfig",
    "build_network",
]
