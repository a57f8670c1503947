"""One number per sample, by least squares on the standardised target.

B samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from .base import ModelParts, Moment, TargetError, TargetReader, TaskOptions, name_samples
from .pooled import PooledModel

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from cache_schema import FeatureCache, TargetColumn


class RegressionConfig(TaskOptions):
    """Predict a number."""

    name: Literal["regression"] = "regression"
    target: str = Field(description="target column of numbers, in the unit they are predicted in")
    best_by: Literal["mse", "mae", "r2", "pearson", "spearman"] = Field(
        "mse", description="metric that picks the best checkpoint"
    )

    def learn(
        self, cache: FeatureCache, train: np.ndarray, others: Mapping[str, np.ndarray]
    ) -> RegressionTask:
        """Find the scale of the target in `train`.

        Raises:
            TargetError: The column is not made of numbers, one is missing, or all are equal.
        """
        column = cache.target(self.target)
        values = _values(column, train)
        mean, std = float(values.mean()), float(values.std())
        if std == 0:
            raise TargetError(
                f"target {self.target!r}: all {len(train)} training samples hold {mean:g}, "
                "needed at least two different values."
            )
        return RegressionTask(config=self, mean=mean, std=std)

    def unlabelled(self, cache: FeatureCache, samples: np.ndarray) -> np.ndarray:
        """(samples,) bool: those without a number."""
        missing: np.ndarray = np.isnan(_numbers(cache.target(self.target))[samples])
        return missing

    def unlearnable(
        self, cache: FeatureCache, train: np.ndarray, held_out: np.ndarray
    ) -> np.ndarray:
        """(held_out,) bool: none; any number can be predicted."""
        _values(cache.target(self.target), held_out[:0])
        return np.zeros(len(held_out), dtype=bool)


class RegressionTask(TaskOptions):
    """Regression with the scale of its target."""

    name: Literal["regression"] = "regression"
    config: RegressionConfig
    mean: float = Field(description="of the training samples, in the target's unit")
    std: float = Field(gt=0, description="of the training samples, in the target's unit")

    @property
    def target(self) -> str:
        """The column it learns."""
        return self.config.target

    @property
    def primary(self) -> str:
        """The metric that picks the best checkpoint."""
        return self.config.best_by

    @property
    def higher_is_better(self) -> bool:
        """Not for errors."""
        return self.config.best_by not in ("mse", "mae")

    def make_model(self, parts: ModelParts) -> nn.Module:
        """A linear layer on the pooled features: (B, 1), in standard deviations from the mean."""
        return PooledModel(parts, nn.Linear(parts.network.out_width, 1))

    def unlabelled(self, cache: FeatureCache, samples: np.ndarray) -> np.ndarray:
        """As its settings say."""
        return self.config.unlabelled(cache, samples)

    def reader(self, cache: FeatureCache, samples: np.ndarray) -> TargetReader:
        """Targets in standard deviations from the mean, float32."""
        column = cache.target(self.target)
        _values(column, samples)

        def read(chosen: np.ndarray) -> dict[str, Tensor]:
            standardised = (_values(column, chosen) - self.mean) / self.std
            return {self.target: torch.from_numpy(standardised).float()}

        return read

    def loss(self, output: Tensor, targets: Mapping[str, Tensor], moment: Moment) -> Tensor:
        """Mean squared error in units of the target's variance."""
        return F.mse_loss(output.squeeze(1), targets[self.target])

    def metrics(self) -> MetricCollection:
        """Errors in the target's unit, and correlations."""
        from torchmetrics import MetricCollection
        from torchmetrics.regression import (
            MeanAbsoluteError,
            MeanSquaredError,
            PearsonCorrCoef,
            R2Score,
            SpearmanCorrCoef,
        )

        with warnings.catch_warnings():
            # It keeps one number per evaluated sample, as rank correlation must.
            warnings.filterwarnings("ignore", "Metric `SpearmanCorrcoef` will save all")
            return MetricCollection(
                {
                    "mse": MeanSquaredError(),
                    "mae": MeanAbsoluteError(),
                    "r2": R2Score(),
                    "pearson": PearsonCorrCoef(),
                    "spearman": SpearmanCorrCoef(),
                }
            )

    def update_metrics(
        self, metrics: MetricCollection, output: Tensor, targets: Mapping[str, Tensor]
    ) -> None:
        """Count one batch, as deviations from the mean: no metric depends on where 0 lies.

        A year or a time stamp as it is would leave float32 few digits for its differences.
        """
        metrics.update(output.squeeze(1) * self.std, targets[self.target] * self.std)

    def predictions(self, output: Tensor) -> dict[str, list[object]]:
        """`value`, in the target's unit."""
        return {"value": (output.cpu().double().squeeze(1) * self.std + self.mean).tolist()}


def _numbers(column: TargetColumn) -> np.ndarray:
    """(samples,) float64, NaN where there is none."""
    if column.spec.kind not in ("number", "integer"):
        raise TargetError(
            f"target {column.spec.name!r}: holds {column.spec.kind!r}, regression needs one number "
            "for each sample. Classes are learned by --task classification."
        )
    values: np.ndarray = column.values.astype(np.float64)
    return values


def _values(column: TargetColumn, samples: np.ndarray) -> np.ndarray:
    """(B,) float64."""
    values: np.ndarray = _numbers(column)[samples]
    infinite = samples[~np.isfinite(values)]
    if infinite.size:
        raise TargetError(
            f"target {column.spec.name!r}: {name_samples(infinite)} without a finite number. "
            "Correct these rows, or leave them out of the data."
        )
    return values
