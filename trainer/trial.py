"""One learning rate: its model, its optimizer, and the best it has reached.

Several trials read the same batches side by side; each trains exactly as it would alone.
"""

from __future__ import annotations

import copy
import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .config import OptimizerConfig
from .optim import WeightAverage
from .optimizer import freeze_parameters, make_optimizer
from .sources import Batch
from .tasks import Moment, Task


@dataclass(frozen=True)
class BestEpoch:
    """The validated epoch that is best by the primary metric.

    Attributes:
        epoch: From 1.
        metrics: Of the validation samples.
        weights: A copy on the CPU.
    """

    epoch: int
    metrics: dict[str, float]
    weights: dict[str, Tensor]


class Trial:
    """A model in training.

    Attributes:
        module: The model itself, for evaluation and saving.
        best: None until the first epoch is validated.
        stopped: Why it trains no further; None while it does.
        loss_sum: Sum over `num_losses` samples since the last line in the log, on the device.
        guards: One number for each step that was not checked yet: not finite if the step was bad.
    """

    def __init__(
        self,
        learning_rate: float,
        accelerator: Accelerator,
        module: nn.Module,
        config: OptimizerConfig,
    ) -> None:
        self.learning_rate = learning_rate
        self.module = module.to(accelerator.device)
        freeze_parameters(module, config)
        self._average = WeightAverage(module, config.ema_decay) if config.ema_decay else None
        self._averaged = copy.deepcopy(module) if config.ema_decay else None
        self.best: BestEpoch | None = None
        self.epochs_since_best = 0
        self.stopped: str | None = None
        self.loss_sum = torch.zeros((), device=accelerator.device)
        self.num_losses = 0
        self.guards: list[Tensor] = []
        self._step_loss = torch.zeros_like(self.loss_sum)
        self._accelerator = accelerator
        self._model: nn.Module = accelerator.prepare_model(module)
        if self._averaged is not None:
            self._averaged = accelerator.prepare_model(self._averaged, evaluation_mode=True)
        self._clip_norm = math.inf if config.clip_norm is None else config.clip_norm
        self._optimizer = accelerator.prepare_optimizer(
            make_optimizer(module, learning_rate, config, accelerator.device)
        )

    def backward(
        self,
        batch: Batch,
        task: Task,
        moment: Moment,
        *,
        share: float = 1.0,
        ends_step: bool = True,
    ) -> None:
        """Gradients of one batch; at the end of the step summed over processes and clipped.

        Args:
            batch: With targets.
            task: Gives the loss.
            moment: Where training stands.
            share: Of the step's samples that are in this batch.
            ends_step: Whether this is the step's last batch.
        """
        alone = nullcontext() if ends_step else self._accelerator.no_sync(self._model)
        with alone:
            output = task.shared(self._model(batch))
            loss = task.loss(output, batch.targets, moment)
            self._accelerator.backward(loss * share)
        self.loss_sum += loss.detach() * batch.num_samples
        self.num_losses += batch.num_samples
        self._step_loss = self._step_loss + loss.detach()
        if not ends_step:
            return
        norm = self._accelerator.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        # The norm is the same on all processes, so they agree. fp16 gradients may overflow
        # without fault (the loss scaler then skips the step), so there the loss is looked at.
        self.guards.append(norm if self._accelerator.scaler is None else self._step_loss)
        self._step_loss = torch.zeros_like(self.loss_sum)

    def update(self, rate_factor: float) -> None:
        """Move the weights along the gradients."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate * group["lr_factor"] * rate_factor
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update(self.module)

    def evaluated(self) -> nn.Module:
        """The model whose metrics and weights count, not in training mode."""
        if self._average is None or self._averaged is None:
            return self.module.eval()
        self._averaged.load_state_dict(self._average.state_dict())
        return self._averaged.eval()

    def first_bad_step(self) -> int | None:
        """How many steps ago (0: this one) the first non-finite gradient came; None if none did."""
        is_finite = torch.stack(self.guards).isfinite().tolist()
        self.guards.clear()
        return None if all(is_finite) else len(is_finite) - 1 - is_finite.index(False)

    def take_mean_loss(self) -> float:
        """Mean training loss of all processes since the last call."""
        local = torch.stack([self.loss_sum, torch.full_like(self.loss_sum, self.num_losses)])
        total, count = self._accelerator.reduce(local, reduction="sum").tolist()
        self.loss_sum.zero_()
        self.num_losses = 0
        return float(total / max(1, count))

    def finish_epoch(
        self, epoch: int, metrics: dict[str, float], task: Task, patience: int | None
    ) -> None:
        """Keep the weights if they are the best so far; stop if nothing got better for long."""
        self.epochs_since_best += 1
        if self.best is None or is_better(task, metrics, self.best.metrics):
            weights = {
                name: value.detach().to("cpu", copy=True)
                for name, value in self.evaluated().state_dict().items()
            }
            self.best = BestEpoch(epoch, metrics, weights)
            self.epochs_since_best = 0
        if patience is not None and self.epochs_since_best >= patience:
            self.stopped = f"no better {task.primary} for {patience} epoch(s)"

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs to go on bit for bit."""
        scaler = self._accelerator.scaler
        return {
            "model": self.module.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": None if self._average is None else self._average.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "best": None if self.best is None else vars(self.best),
            "epochs_since_best": self.epochs_since_best,
            "stopped": self.stopped,
            "loss_sum": self.loss_sum,
            "num_losses": self.num_losses,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another trial of the same settings was saved."""
        self.module.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self.best = None if state["best"] is None else BestEpoch(**state["best"])
        self.epochs_since_best = state["epochs_since_best"]
        self.stopped = state["stopped"]
        self.loss_sum.copy_(state["loss_sum"])
        self.num_losses = state["num_losses"]


def is_better(task: Task, metrics: dict[str, float], other: dict[str, float]) -> bool:
    """Whether the primary metric of one evaluation beats another's; NaN never does."""
    mine, theirs = metrics[task.primary], other[task.primary]
    if math.isnan(theirs):
        return not math.isnan(mine)
    return mine > theirs if task.higher_is_better else mine < theirs
