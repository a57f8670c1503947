"""What a task is: a head, a loss, metrics and predictions over one side network.

B samples, E pooled width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from cache_schema import StreamSpec, UserError

from ..pooling import Pooling, PoolingName

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from ..networks import SideNetwork

TargetReader = Callable[[np.ndarray], dict[str, Tensor]]
"""(B,) sample numbers to target name -> tensor whose first axis is B."""


Output = Any
"""What a task's model gives for a batch: a tensor whose first axis is B, or a frozen dataclass of
such tensors."""


@dataclass(frozen=True)
class SideParts:
    """What encodes the samples of one cache.

    Attributes:
        network: The side network.
        pooling: Packed rows and their layout to one vector per sample.
    """

    network: SideNetwork
    pooling: Pooling


@dataclass(frozen=True)
class ModelParts:
    """What a task builds its model from, freshly initialised from the run's seed.

    Attributes:
        network: The side network.
        pooling: Packed rows and their layout to one vector per sample.
        dropout: Share of the features dropped before the head.
        texts: The second side of a task that reads pairs; else None.
        streams: What the cache of `network` holds.
    """

    network: SideNetwork
    pooling: Pooling
    dropout: float
    texts: SideParts | None = None
    streams: tuple[StreamSpec, ...] = ()

    def both_sides(self) -> tuple[SideParts, SideParts]:
        """Items and texts."""
        assert self.texts is not None, "a task that reads pairs is given two sides"
        return SideParts(self.network, self.pooling), self.texts


@dataclass(frozen=True)
class Moment:
    """Where training stands, for losses that change as it goes on.

    Attributes:
        epoch: From 0.
        step: Within the epoch, from 0.
        steps_per_epoch: Optimizer steps of one epoch.
    """

    epoch: int
    step: int
    steps_per_epoch: int


SETTLED = Moment(epoch=10**9, step=0, steps_per_epoch=1)
"""Past every warm-up: the loss of an evaluation does not depend on when it is made."""


class TargetError(UserError):
    """A target column does not suit the task."""


class TaskOptions(BaseModel):
    """Settings of a task, or what it learned from its targets: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    usual_pooling: ClassVar[PoolingName | None] = "mean"
    """What the head reads unless the settings say otherwise; None for tasks that never pool."""

    reads: ClassVar[tuple[str, ...]] = ()
    """Facts beside the hidden states that predictions are made with, see `facts`."""

    def start(self, model: nn.Module) -> None:
        """Load what training starts from into a fresh model: nothing, for most tasks."""

    def facts(self, values: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Tensor]:
        """What `FeatureBatch.targets` must hold for a prediction without labels.

        Args:
            values: Each name in `reads` to one array per sample: a stored input of the cache, or
                `size`, the height and width of the image in pixels.
        """
        return {}

    def shared(self, output: Output) -> Output:
        """The output with what the loss needs of other processes: itself, for most tasks."""
        return output

    def unlabelled(self, cache: Any, samples: np.ndarray) -> np.ndarray:
        """(samples,) bool: those whose target is missing and that are left out; none, usually."""
        del cache
        return np.zeros(len(samples), dtype=bool)


class Task(Protocol):
    """A task that has seen its training targets: all that training and prediction need.

    It is stored in the run folder, so it holds the class names or the scale of the target, but
    no samples. A new task is a file here with its config, and one line in `tasks/__init__.py`.
    """

    @property
    def target(self) -> str:
        """The column it learns."""

    @property
    def primary(self) -> str:
        """The metric by which runs, epochs and learning rates are compared."""

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the primary metric is better."""

    @property
    def reads(self) -> tuple[str, ...]:
        """See `TaskOptions.reads`."""

    def start(self, model: nn.Module) -> None:
        """Load what training starts from into a fresh model."""

    def facts(self, values: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Tensor]:
        """See `TaskOptions.facts`."""

    def shared(self, output: Output) -> Output:
        """See `TaskOptions.shared`."""

    def unlabelled(self, cache: Any, samples: np.ndarray) -> np.ndarray:
        """See `TaskOptions.unlabelled`."""

    def make_model(self, parts: ModelParts) -> nn.Module:
        """The trained module: `FeatureBatch` (`PairedBatch` for pairs) to the task's output."""

    def reader(self, cache: Any, samples: np.ndarray) -> TargetReader:
        """Open the targets of a cache.

        Args:
            cache: Holds the column `target`: a `FeatureCache`, or the `PairedCache` of a task
                that reads pairs.
            samples: Those that will be read; each is checked now.

        Raises:
            TargetError: The target of one of them is missing or unknown to the task; names them.
        """

    def loss(self, output: Output, targets: Mapping[str, Tensor], moment: Moment) -> Tensor:
        """Mean loss over the batch, a float32 scalar.

        Args:
            output: Of the task's model.
            targets: As the task's reader gives them.
            moment: Where training stands; `SETTLED` in evaluations.
        """

    def metrics(self) -> MetricCollection:
        """Fresh metrics, the primary one among them."""

    def update_metrics(
        self, metrics: MetricCollection, output: Output, targets: Mapping[str, Tensor]
    ) -> None:
        """Count one batch."""

    def predictions(self, output: Output) -> dict[str, list[object]]:
        """Column name to one value per sample."""


def name_samples(samples: np.ndarray, limit: int = 5) -> str:
    """`samples 3, 8 and 11` or `samples 3, 8, 11, 12, 40 and 7 more`."""
    shown = [str(sample) for sample in samples[:limit].tolist()]
    more = len(samples) - len(shown)
    if more:
        return f"samples {', '.join(shown)} and {more} more"
    if len(shown) == 1:
        return f"sample {shown[0]}"
    return f"samples {', '.join(shown[:-1])} and {shown[-1]}"
