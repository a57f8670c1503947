"""An exponential moving average of a module's weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Follows a module: average <- decay * average + (1 - decay) * weights, after each step.

    Floating-point parameters and buffers are averaged, other buffers copied.

    Args:
        module: Where the average starts.
        decay: 0.9998 in MDETR's recipe.
    """

    def __init__(self, module: nn.Module, decay: float = 0.9998) -> None:
        self.decay = decay
        self._average = {k: v.detach().clone() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's weights."""
        for name, value in module.state_dict().items():
            average = self._average[name]
            if average.is_floating_point():
                average.lerp_(value, 1 - self.decay)
            else:
                average.copy_(value)

    @contextmanager
    def applied_to(self, module: nn.Module) -> Iterator[None]:
        """The module holds the average inside the block, and its own weights again after it."""
        own = {k: v.detach().clone() for k, v in module.state_dict().items()}
        module.load_state_dict(self._average)
        try:
            yield
        finally:
            module.load_state_dict(own)

    def state_dict(self) -> dict[str, Tensor]:
        """The average by parameter and buffer name."""
        return dict(self._average)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from a saved average.

        Raises:
            KeyError: A parameter of the module is missing from the saved average.
        """
        for name, average in self._average.items():
            average.copy_(state[name])
