"""The hidden states of any timm model, as rows.

B images, R rows of one image, C width, H height, W width of a map.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .errors import UnsupportedBackboneError

Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class State:
    """What one module gives for a batch of images.

    Attributes:
        rows_BRC: Its output, positions in row-major order.
        grid: (height, width) where the positions are those of a map.
    """

    rows_BRC: Tensor
    grid: Grid | None

    @property
    def shape(self) -> tuple[Grid | int, int]:
        """States of one shape can share a stream."""
        return self.grid or self.rows_BRC.shape[1], self.rows_BRC.shape[2]


class StateReader:
    """Runs a timm model and gives what its `forward_intermediates` does, and a little more.

    Attributes:
        modules: Dotted path of the module behind each intermediate.
    """

    def __init__(self, name: str, model: Any) -> None:
        if not hasattr(model, "forward_intermediates") or not hasattr(model, "feature_info"):
            raise UnsupportedBackboneError(
                f"{name}: {type(model).__name__} does not give its intermediate states, needed a "
                "timm model with `forward_intermediates`. Choose another architecture."
            )
        self._name = name
        self._model = model
        self.modules = [str(stage["module"]) for stage in self._model.feature_info]
        parameters = inspect.signature(self._model.forward_intermediates).parameters
        has_prefix = "return_prefix_tokens" in parameters
        self._options: dict[str, Any] = (
            {"return_prefix_tokens": True, "output_fmt": "NLC"} if has_prefix else {}
        )
        self._entered: Any = None
        first = dict(model.named_modules()).get(self.modules[0])
        if first is not None:
            first.register_forward_pre_hook(self._enter)

    def read(self, images_B3HW: Tensor) -> tuple[State | None, list[State], State]:
        """All states of normalised images.

        Returns:
            What enters the first block, where the blocks keep that shape; every intermediate, its
            class, distillation and register tokens in front; and the model's last state.

        Raises:
            UnsupportedBackboneError: The model cannot take these images, or it gives something
                else than one last state.
        """
        try:
            last, between = self._model.forward_intermediates(images_B3HW, **self._options)
        except torch.cuda.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UnsupportedBackboneError(
                f"{self._name}: cannot run images of {tuple(images_B3HW.shape[2:])} pixels "
                f"({said}). Choose another --image-size, or another architecture."
            ) from error
        states = [self._state(value, is_last=False) for value in between]
        entered, self._entered = self._embedding(states), None
        return entered, states, self._on_grid(self._state(last, is_last=True), states[-1].grid)

    def boundary_modules(self, images_B3HW: Tensor) -> tuple[str, str]:
        """Paths of the direct children that give the first block's input and the last state.

        Where it is no child's own output, the place it is taken from in words.
        """
        outputs: dict[str, Any] = {}

        def keep(path: str) -> Callable[..., None]:
            return lambda module, inputs, output: outputs.update({path: output})

        children = self._model.named_children()
        hooks = [child.register_forward_hook(keep(path)) for path, child in children]
        last, _ = self._model.forward_intermediates(images_B3HW, **self._options)
        for hook in hooks:
            hook.remove()
        entered, self._entered = self._entered, None
        first = [path for path, output in outputs.items() if output is entered]
        final = [path for path, output in outputs.items() if output is last]
        return ([f"{self.modules[0]}:input", *first][-1], ["forward_features", *final][-1])

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._entered = inputs[0] if inputs else None

    def _embedding(self, states: list[State]) -> State | None:
        if not isinstance(self._entered, Tensor) or len({state.shape for state in states}) > 1:
            return None
        entered = self._on_grid(self._state(self._entered, is_last=False), states[0].grid)
        return entered if entered.shape == states[0].shape else None

    def _state(self, value: Any, *, is_last: bool) -> State:
        if isinstance(value, tuple):
            patches, prefix = value
            return State(torch.cat([prefix, patches], dim=1), None)
        if not isinstance(value, Tensor) or value.ndim not in (3, 4):
            raise UnsupportedBackboneError(
                f"{self._name}: it gives {type(value).__name__} where tokens or a map are needed. "
                "Choose another architecture."
            )
        if value.ndim == 3:
            return State(value, None)
        # Intermediates are always channels first; the last state is as the model itself likes it.
        if is_last and getattr(self._model, "output_fmt", "NCHW") == "NHWC":
            return State(value.flatten(1, 2), (value.shape[1], value.shape[2]))
        return State(value.flatten(2).transpose(1, 2), (value.shape[2], value.shape[3]))

    @staticmethod
    def _on_grid(state: State, grid: Grid | None) -> State:
        """Tokens that are as many as a map has positions are that map."""
        if state.grid is not None or grid is None:
            return state
        is_map = state.rows_BRC.shape[1] == grid[0] * grid[1]
        return State(state.rows_BRC, grid) if is_map else state
