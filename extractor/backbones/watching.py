"""Which module of a model gives which hidden state, found by watching it run once.

A table of module paths goes stale with the library and covers only the families in it; a tensor
that a module returned is that module's output in any family.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from cache_schema import LayerSpec

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Call:
    """One module's run. Calls are listed as they end: inner modules before outer ones.

    Attributes:
        path: Dotted, from the model.
        is_norm: Whether its class is a norm.
        entered: Its first argument that could be a hidden state.
        left: Its output, or the first of several; None where that is no hidden state.
    """

    path: str
    is_norm: bool
    entered: Tensor | None
    left: Tensor | None

    @property
    def is_block(self) -> bool:
        """Whether it is a numbered part, as the blocks of every family are."""
        return self.path.rpartition(".")[2].isdigit()

    @property
    def is_final_norm(self) -> bool:
        """Whether it is a norm that belongs to no numbered part."""
        return self.is_norm and not any(part.isdigit() for part in self.path.split("."))


def watch(model: nn.Module, run: Callable[[], T]) -> tuple[T, list[Call]]:
    """Run something once without gradients: what it returns, and every module's run.

    The calls hold their tensors, so drop them soon.
    """
    calls: list[Call] = []

    def hook_of(path: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            entered = next((a for a in (*args, *kwargs.values()) if _is_states(a)), None)
            left = output[0] if type(output) is tuple and output else output
            is_norm = "norm" in type(module).__name__.lower()
            calls.append(Call(path, is_norm, entered, left if _is_states(left) else None))

        return note

    handles = [
        module.register_forward_hook(hook_of(path), with_kwargs=True)
        for path, module in model.named_modules()
        if path
    ]
    try:
        with torch.no_grad():
            return run(), calls
    finally:
        for handle in handles:
            handle.remove()


def describe_layers(
    calls: Sequence[Call], states: Sequence[Tensor], *, first_index: int = 0
) -> tuple[LayerSpec, ...]:
    """Name the module of every hidden state, and say which have the final norm.

    Args:
        calls: Of the run that gave the states.
        states: Of one stream, or of one map after the other; the last as it is stored.
        first_index: Of the first of them.
    """
    found = [_noted(calls, state) for state in states]
    norm = _final_norm(calls, found[-1])
    specs = []
    for index, state in enumerate(found, first_index):
        is_normed = norm is not None and norm.left is state
        specs.append(
            LayerSpec(
                index=index,
                module=norm.path if norm is not None and is_normed else _giver(calls, state),
                final_norm=None if norm is None else is_normed,
            )
        )
    return tuple(specs)


def _noted(calls: Sequence[Call], state: Tensor) -> Tensor:
    """The state as some module returned it; models return copies of some in another shape."""
    if any(state is tensor for call in calls for tensor in (call.left, call.entered)):
        return state
    rows = _rows(state)
    same = (call.left for call in calls if call.left is not None)
    return next((left for left in same if torch.equal(_rows(left), rows)), state)


def _rows(state: Tensor) -> Tensor:
    return state.flatten(2).transpose(1, 2) if state.dim() == 4 else state


def _final_norm(calls: Sequence[Call], last: Tensor) -> Call | None:
    """The norm that ends the model, whether `last` is its output or comes before it."""
    first = next((at for at, call in enumerate(calls) if call.left is last), len(calls))
    norms = [call for call in calls[first:] if call.is_final_norm]
    giving = [call for call in norms if call.left is last]
    return next(iter(giving or norms), None)


def _giver(calls: Sequence[Call], state: Tensor) -> str:
    """The block whose output a state is, else the outermost module that made it."""
    givers = [call for call in calls if call.left is state and call.entered is not state]
    blocks = [call for call in givers if call.is_block]
    if givers:
        return (blocks or givers)[-1].path
    # A sum made between modules: named by what only passes it on (dropout), or by its reader.
    passing = [call.path for call in calls if call.left is state]
    reading = [f"{call.path}:input" for call in calls if call.entered is state]
    return (passing[:1] or reading[-1:] or ["model"])[0]


def _is_states(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype.is_floating_point and value.dim() > 1
