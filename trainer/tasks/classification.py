"""One label per sample (cross-entropy) or any number of labels (binary cross-entropy each).

B samples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from .base import ModelParts, Moment, TargetError, TargetReader, TaskOptions
from .labels import Labels, label_column, label_names
from .pooled import PooledModel

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from cache_schema import FeatureCache, TargetColumn


class ClassificationConfig(TaskOptions):
    """Predict a label, or several if the target holds lists of labels."""

    name: Literal["classification"] = "classification"
    target: str = Field(description="target column: strings or whole numbers, or lists of them")
    best_by: Literal["accuracy", "macro_f1"] = Field(
        "accuracy",
        description="metric that picks the best checkpoint; for several labels per sample, "
        "`accuracy` is the share of samples with exactly the right labels",
    )
    label_smoothing: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the target probability spread over all classes (one label only)",
    )

    def learn(
        self, cache: FeatureCache, train: np.ndarray, others: Mapping[str, np.ndarray]
    ) -> ClassificationTask:
        """Find the classes.

        Args:
            cache: Holds the target.
            train: Samples that are trained on.
            others: Split name to its samples; every label there must occur in `train`.

        Raises:
            TargetError: The column is not made of labels, has one class only, or a label is
                seen only outside `train`.
        """
        column = self._labels(cache)
        is_multi_label = column.spec.kind == "categories"
        if is_multi_label and self.label_smoothing:
            raise TargetError(
                f"task.label_smoothing: is {self.label_smoothing}, but target {self.target!r} "
                "holds several labels per sample, where it has no effect. Leave it at 0."
            )
        codes = Labels.of(column, train).distinct
        if len(codes) < (1 if is_multi_label else 2):
            raise TargetError(
                f"target {self.target!r}: found {len(codes)} class(es) in the training samples "
                f"({label_names(column, codes)}), needed at least 2 to tell apart."
            )
        refuse_labels_outside(column, codes, others)
        return ClassificationTask(
            config=self, classes=tuple(label_names(column, codes)), is_multi_label=is_multi_label
        )

    def unlearnable(
        self, cache: FeatureCache, train: np.ndarray, held_out: np.ndarray
    ) -> np.ndarray:
        """(held_out,) bool: samples with a label that no training sample has."""
        column = self._labels(cache)
        known = Labels.of(column, train).distinct
        return Labels.of(column, held_out).having_other_than(known)

    def unlabelled(self, cache: FeatureCache, samples: np.ndarray) -> np.ndarray:
        """(samples,) bool: those without a label; an empty list says that none applies."""
        return Labels.of(self._labels(cache), samples).missing

    def _labels(self, cache: FeatureCache) -> TargetColumn:
        column = label_column(cache, self.target)
        if column.spec.kind in ("category", "categories", "integer"):
            return column
        instead = "use --task regression" if column.spec.kind == "number" else "choose another"
        raise TargetError(
            f"target {self.target!r}: holds {column.spec.kind!r}, classification needs names or "
            f"whole numbers, or lists of them. For this column {instead}, or store names."
        )


class ClassificationTask(TaskOptions):
    """Classification with its classes."""

    name: Literal["classification"] = "classification"
    config: ClassificationConfig
    classes: tuple[str, ...] = Field(description="class names in the order of the outputs")
    is_multi_label: bool = Field(description="whether a sample may have any number of classes")

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
        """Always."""
        return True

    def make_model(self, parts: ModelParts) -> nn.Module:
        """A linear layer on the pooled features: (B, C) logits."""
        return PooledModel(parts, nn.Linear(parts.network.out_width, len(self.classes)))

    def unlabelled(self, cache: FeatureCache, samples: np.ndarray) -> np.ndarray:
        """As its settings say."""
        return self.config.unlabelled(cache, samples)

    def reader(self, cache: FeatureCache, samples: np.ndarray) -> TargetReader:
        """Targets by class *name*, so a cache that numbers them otherwise reads right."""
        column = label_column(cache, self.target)
        labels = Labels.of(column, samples)
        codes = labels.distinct
        names = label_names(column, codes)
        unknown = sorted({*names} - {*self.classes})
        if unknown:
            raise TargetError(
                f"target {self.target!r}: label {unknown[0]!r} is not among the classes of this "
                f"run {list(self.classes)!r}. Evaluate on data with its labels."
            )
        places = torch.tensor([self.classes.index(name) for name in names], dtype=torch.int64)

        def read(chosen: np.ndarray) -> dict[str, Tensor]:
            labels = Labels.of(column, chosen)
            found = places[torch.from_numpy(np.searchsorted(codes, labels.codes))]
            if self.is_multi_label:
                marks = torch.zeros(len(chosen), len(self.classes))
                marks[torch.from_numpy(labels.positions), found] = 1.0
                return {self.target: marks}
            return {self.target: found}

        return read

    def loss(self, output: Tensor, targets: Mapping[str, Tensor], moment: Moment) -> Tensor:
        """Mean over samples, and over classes where each is decided on its own."""
        target = targets[self.target]
        if self.is_multi_label:
            return F.binary_cross_entropy_with_logits(output, target)
        return F.cross_entropy(output, target, label_smoothing=self.config.label_smoothing)

    def metrics(self) -> MetricCollection:
        """Accuracy and F1, each class weighing the same in `macro_f1`."""
        from torchmetrics import MetricCollection
        from torchmetrics.classification import (
            MulticlassAccuracy,
            MulticlassF1Score,
            MultilabelExactMatch,
            MultilabelF1Score,
        )

        from ..metrics.running import BalancedAccuracy

        count = len(self.classes)
        if self.is_multi_label:
            return MetricCollection(
                {
                    "accuracy": MultilabelExactMatch(count, validate_args=False),
                    "macro_f1": MultilabelF1Score(count, average="macro", validate_args=False),
                    "micro_f1": MultilabelF1Score(count, average="micro", validate_args=False),
                }
            )
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(count, average="micro", validate_args=False),
                "balanced_accuracy": BalancedAccuracy(count),
                "macro_f1": MulticlassF1Score(count, average="macro", validate_args=False),
            }
        )

    def update_metrics(
        self, metrics: MetricCollection, output: Tensor, targets: Mapping[str, Tensor]
    ) -> None:
        """Count one batch of logits."""
        target = targets[self.target]
        if self.is_multi_label:
            # Of logits torchmetrics guesses, batch by batch, whether they are probabilities.
            metrics.update(_is_chosen(output).long(), target.long())
        else:
            metrics.update(output, target)

    def predictions(self, output: Tensor) -> dict[str, list[object]]:
        """`label` and `score` (its probability), and `probabilities` in the order of `classes`.

        With several labels per sample, `label` and `score` are lists of those above one half.
        """
        if not self.is_multi_label:
            scores, places = (probabilities := output.float().softmax(dim=1)).max(dim=1)
            return {
                "label": [self.classes[place] for place in places.tolist()],
                "score": scores.tolist(),
                "probabilities": probabilities.tolist(),
            }
        rows = output.float().sigmoid().tolist()
        chosen = [row.nonzero().flatten().tolist() for row in _is_chosen(output)]
        return {
            "label": [[self.classes[place] for place in places] for places in chosen],
            "score": [
                [row[place] for place in places] for row, places in zip(rows, chosen, strict=True)
            ],
            "probabilities": rows,
        }


def _is_chosen(logits: Tensor) -> Tensor:
    """Which of several labels a sample gets: those with a probability above one half."""
    return logits.float().sigmoid() > 0.5


def refuse_labels_outside(
    column: TargetColumn, known: np.ndarray, others: Mapping[str, np.ndarray]
) -> None:
    """Every label of these splits is among the known codes.

    Raises:
        TargetError: Names the labels that are not, and where they are.
    """
    found = []
    for split, samples in others.items():
        codes = Labels.of(column, samples).codes
        for code in np.setdiff1d(codes, known):
            name = label_names(column, code[None])[0]
            found.append(f"{name!r} ({(codes == code).sum()} in {split!r})")
    if found:
        raise TargetError(
            f"target {column.spec.name!r}: label(s) never seen in training: {', '.join(found)}. "
            "Add training samples of them, or leave those rows out."
        )
