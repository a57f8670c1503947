"""Networks trained on the same cache, each with its best learning rate, over several seeds."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from report import Figure

from cache_schema import FeatureCache
from trainer import FitConfig, evaluate, fit


@dataclass(frozen=True)
class Contestant:
    """A network, and what is searched for it on the validation split."""

    network: Mapping[str, Any]
    epochs: int
    rates: tuple[float, ...]


def scores(
    name: str,
    contestant: Contestant,
    cache: FeatureCache,
    folder: Path,
    *,
    metric: str,
    seeds: Sequence[int],
    settings: Mapping[str, Any],
) -> list[float]:
    """The metric on the test split in percent, one number for each seed."""
    config = {
        **settings,
        "network": dict(contestant.network),
        "epochs": contestant.epochs,
        "optimizer": {"learning_rates": contestant.rates},
    }
    return [
        100 * tested(name, {**config, "seed": seed}, cache, folder, [metric])[metric]
        for seed in seeds
    ]


def tested(
    name: str,
    config: Mapping[str, Any],
    cache: FeatureCache | tuple[FeatureCache, ...],
    folder: Path,
    metrics: Sequence[str],
) -> dict[str, float]:
    """Metrics on the test split, which the chosen learning rate and epoch look at once.

    Both are chosen on the validation split.

    Args:
        name: Of the run, but for its seed.
        config: Fields of `FitConfig`.
        cache: One, or one for each side of a pair.
        folder: Where runs go.
        metrics: Those that are wanted.
    """
    settings = FitConfig.model_validate(config)
    run = folder / f"{name}-{settings.seed}"
    report = fit(settings, cache, run, overwrite=True)
    found = evaluate(run, cache, "test")
    shown = ", ".join(f"{key} {report.metrics[key]:.4g} / {found[key]:.4g}" for key in metrics)
    print(
        f"{name} seed {settings.seed}: learning rate {report.learning_rate:g}, epoch "
        f"{report.best_epoch}, validation / test {shown}, {report.seconds:.0f} s, "
        f"{report.num_parameters:,} parameters",
        file=sys.stderr,
    )
    return {key: found[key] for key in metrics}


def figures(name: str, found: Sequence[float], target: str = "") -> list[Figure]:
    """Mean over seeds, and how far they are apart."""
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    return [
        Figure(f"{name}, mean", statistics.mean(found), "%", target),
        Figure(f"{name}, standard deviation", spread, "points"),
    ]
