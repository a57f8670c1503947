"""Side networks: what is trained beside a frozen backbone."""

from .base import (
    IncompatibleNetworkError,
    NetworkOptions,
    RowMasks,
    SideFeatures,
    SideNetwork,
    setting_for,
)
from .build import NetworkConfig, build_network
from .ladder import LadderConfig
from .options import UniPTConfig
from .probe import MLPProbeConfig, ProbeConfig, WeightedSumConfig
from .released import ReleasedCheckpointError, load_released

__all__ = [
    "IncompatibleNetworkError",
    "LadderConfig",
    "MLPProbeConfig",
    "NetworkConfig",
    "NetworkOptions",
    "ProbeConfig",
    "ReleasedCheckpointError",
    "RowMasks",
    "SideFeatures",
    "SideNetwork",
    "UniPTConfig",
    "WeightedSumConfig",
    "build_network",
    "load_released",
    "setting_for",
]
