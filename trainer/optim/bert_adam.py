"""BertAdam: Adam without bias correction, with weight decay and a clip of each tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class BertAdam(Optimizer):
    """The optimizer of CLIP4Clip's recipe.

    Moments are not corrected for their start at 0, so the first steps are smaller than Adam's.
    Weight decay is added to the update, not to the gradient. The learning rate comes from the
    group as in any torch optimizer; use `schedules.bert_cosine` for the one the authors built in.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Decay of the moments; 0.9 and 0.98 in the recipe.
        eps: Added to the root of the second moment.
        weight_decay: 0.2 in the recipe, 0 for biases.
        max_grad_norm: Each tensor's gradient is scaled to this norm if longer; 0 turns it off.

    Source: the released code; tests/golden/clip4clip_bertadam.npz is a trajectory of it.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "max_grad_norm": max_grad_norm,
            },
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["first"] = torch.zeros_like(parameter)
            state["second"] = torch.zeros_like(parameter)
        gradient = _clipped(gradient, group["max_grad_norm"])
        beta1, beta2 = group["betas"]
        first, second = state["first"], state["second"]
        first.mul_(beta1).add_(gradient, alpha=1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        update = first / (second.sqrt() + group["eps"])
        parameter.sub_(update.add_(parameter, alpha=group["weight_decay"]), alpha=group["lr"])


def _clipped(gradient: Tensor, max_norm: float) -> Tensor:
    if max_norm <= 0:
        return gradient
    # 1e-6 as in torch.nn.utils.clip_grad_norm_, which the authors call on every tensor.
    norm: Tensor = torch.linalg.vector_norm(gradient)
    return gradient * (max_norm / (norm + 1e-6)).clamp(max=1.0)
