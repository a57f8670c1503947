"""Metrics of models over batches, without gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from .sources import Batch
from .tasks import SETTLED, Output, Task

Forward = Callable[..., Output]


def measure(
    forwards: Sequence[Forward],
    task: Task,
    batches: Iterable[Batch],
    device: torch.device,
    on_batch: Callable[[int], object],
) -> list[dict[str, float]]:
    """Loss and metrics of several models over one pass; of all processes together.

    Args:
        forwards: Batch to task output, one for each model.
        task: Defines loss and metrics.
        batches: On `device`, with targets; at least one on every process.
        device: Where the metrics are counted.
        on_batch: Called with the number of samples after each batch.

    Returns:
        For each model: `loss` and the task's metrics.
    """
    from torchmetrics.aggregation import SumMetric

    counts = [task.metrics().to(device) for _ in forwards]
    # Not MeanMetric: where it does not look for NaN, torchmetrics 1.9 ignores the weights.
    losses = [SumMetric(nan_strategy="disable").to(device) for _ in forwards]
    num_samples = SumMetric(nan_strategy="disable").to(device)
    with torch.no_grad():
        for batch in batches:
            for forward, count, loss in zip(forwards, counts, losses, strict=True):
                output = forward(batch)
                task.update_metrics(count, output, batch.targets)
                loss.update(task.loss(output, batch.targets, SETTLED) * batch.num_samples)
            num_samples.update(batch.num_samples)
            on_batch(batch.num_samples)
    with warnings.catch_warnings():
        # A model that predicts one value has no correlation: NaN says that.
        warnings.filterwarnings("ignore", "The variance of predictions or target is close to zero")
        total = num_samples.compute()
        return [
            {
                name: _as_float(value)
                for name, value in {"loss": loss.compute() / total, **count.compute()}.items()
            }
            for loss, count in zip(losses, counts, strict=True)
        ]


def _as_float(value: Tensor) -> float:
    """The shortest number that is the same float32: 0.55 and not 0.550000011920929."""
    return float(f"{float(value):.7g}")
