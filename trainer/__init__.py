"""Training of side networks from a cache, and their use on new samples."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import FitConfig, OptimizerConfig, ScheduleConfig, ValidationConfig
    from .errors import (
        CheckpointMismatchError,
        ConfigError,
        NonFiniteLossError,
        RunFolderError,
        RunNotFoundError,
    )
    from .networks import (
        IncompatibleNetworkError,
        LadderConfig,
        MLPProbeConfig,
        NetworkConfig,
        ProbeConfig,
        SideFeatures,
        SideNetwork,
        UniPTConfig,
        WeightedSumConfig,
        build_network,
        setting_for,
    )
    from .predict import Predictions, TrainedRun, evaluate, load_run, predict_split
    from .record import CacheExcerpt, RunRecord
    from .report import FitReport, TrialReport
    from .retrieve import (
        Encoded,
        Match,
        best_matches,
        check_retrieval,
        encode_batch,
        encode_split,
        rank_both_ways,
    )
    from .settings import explain, nearest_setting, with_overrides
    from .tasks import (
        FIRST_TOKENS,
        ClassificationConfig,
        RegressionConfig,
        RetrievalConfig,
        TargetError,
        TaskConfig,
    )
    from .training import fit

# Nothing is imported before it is used: torch, torchmetrics and accelerate take seconds.
_HOMES = {
    "config": ("FitConfig", "OptimizerConfig", "ScheduleConfig", "ValidationConfig"),
    "errors": (
        "CheckpointMismatchError",
        "ConfigError",
        "NonFiniteLossError",
        "RunFolderError",
        "RunNotFoundError",
    ),
    "networks": (
        "IncompatibleNetworkError",
        "LadderConfig",
        "MLPProbeConfig",
        "NetworkConfig",
        "ProbeConfig",
        "SideFeatures",
        "SideNetwork",
        "UniPTConfig",
        "WeightedSumConfig",
        "build_network",
        "setting_for",
    ),
    "predict": ("Predictions", "TrainedRun", "evaluate", "load_run", "predict_split"),
    "record": ("CacheExcerpt", "RunRecord"),
    "report": ("FitReport", "TrialReport"),
    "retrieve": (
        "Encoded",
        "Match",
        "best_matches",
        "check_retrieval",
        "encode_batch",
        "encode_split",
        "rank_both_ways",
    ),
    "settings": ("explain", "nearest_setting", "with_overrides"),
    "tasks": (
        "FIRST_TOKENS",
        "ClassificationConfig",
        "RegressionConfig",
        "RetrievalConfig",
        "TargetError",
        "TaskConfig",
    ),
    "training": ("fit",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "FIRST_TOKENS",
    "CacheExcerpt",
    "CheckpointMismatchError",
    "ClassificationConfig",
    "ConfigError",
    "Encoded",
    "FitConfig",
    "FitReport",
    "IncompatibleNetworkError",
    "LadderConfig",
    "MLPProbeConfig",
    "Match",
    "NetworkConfig",
    "NonFiniteLossError",
    "OptimizerConfig",
    "Predictions",
    "ProbeConfig",
    "RegressionConfig",
    "RetrievalConfig",
    "RunFolderError",
    "RunNotFoundError",
    "RunRecord",
    "ScheduleConfig",
    "SideFeatures",
    "SideNetwork",
    "TargetError",
    "TaskConfig",
    "TrainedRun",
    "TrialReport",
    "UniPTConfig",
    "ValidationConfig",
    "WeightedSumConfig",
    "best_matches",
    "build_network",
    "check_retrieval",
    "encode_batch",
    "encode_split",
    "evaluate",
    "explain",
    "fit",
    "load_run",
    "nearest_setting",
    "predict_split",
    "rank_both_ways",
    "setting_for",
    "with_overrides",
]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
