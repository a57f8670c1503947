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
    """The metric on the test split in percent, one number for each seed.

    The learning rate and the epoch are chosen on the validation split; the test split is looked
    at once, by the chosen ones.
    """
    found = []
    for seed in seeds:
        config = FitConfig.model_validate(
            {
                **settings,
                "network": dict(contestant.network),
                "epochs": contestant.epochs,
                "optimizer": {"learning_rates": contestant.rates},
                "seed": seed,
            }
        )
        run = folder / f"{name}-{seed}"
        report = fit(config, cache, run, overwrite=True)
        tested = evaluate(run, cache, "test")[metric]
        print(
            f"{name} seed {seed}: learning rate {report.learning_rate:g}, epoch "
            f"{report.best_epoch}, validation {report.metrics[metric]:.4f}, test {tested:.4f}",
            file=sys.stderr,
        )
        found.append(100 * tested)
    return found


def figures(name: str, found: Sequence[float], target: str = "") -> list[Figure]:
    """Mean over seeds, and how far they are apart."""
    spread = statistics.stdev(found) if len(found) > 1 else 0.0
    return [
        Figure(f"{name}, mean", statistics.mean(found), "%", target),
        Figure(f"{name}, standard deviation", spread, "points"),
    ]
