"""Sorts parameters into optimizer groups by learning rate and weight decay."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

DecayRule = Literal["weights", "all-but-biases", "all"]


def parameter_groups(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    decay: DecayRule = "weights",
    lr_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Groups for a torch optimizer; parameters that need no gradient are left out.

    Args:
        module: Whose parameters to sort.
        lr: Learning rate.
        weight_decay: Of the groups that decay; the others get 0.
        decay: `weights`: no decay on biases, on anything inside a norm, and on other parameters
            with fewer than two axes. `all-but-biases`: norm weights decay too; what the name
            filters of the authors' CLIP4Clip and CLIP-ViL recipes amount to. `all`: their
            VSE-infinity and MDETR recipes.
        lr_factors: Start of a parameter name to what its learning rate is multiplied by; the
            longest start that fits counts. MDETR's heads train at 0.1.

    Raises:
        ValueError: A name in `lr_factors` is the start of no trainable parameter.
    """
    factors = lr_factors or {}
    parameters = {k: p for k, p in module.named_parameters() if p.requires_grad}
    _refuse_unused(factors, parameters)
    fixed = _without_decay(module, parameters, decay)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        start = max((s for s in factors if name.startswith(s)), key=len, default=None)
        key = (factors[start] if start else 1.0, name not in fixed)
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": params,
            "lr": lr * factor,
            "lr_factor": factor,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (factor, decays), params in groups.items()
    ]


def freeze(module: nn.Module, starts: Sequence[str]) -> None:
    """Take the gradient from the parameters whose names start so.

    Raises:
        ValueError: A start fits no parameter, or no trained parameter is left.
    """
    parameters = dict(module.named_parameters())
    _refuse_unused(starts, parameters)
    for name, parameter in parameters.items():
        if name.startswith(tuple(starts)):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(f"{list(starts)} leave nothing to train, needed a parameter that moves.")


def _refuse_unused(starts: Iterable[str], parameters: Mapping[str, nn.Parameter]) -> None:
    unused = sorted(s for s in starts if not any(name.startswith(s) for name in parameters))
    if unused:
        parts = sorted({name.split(".")[0] + "." for name in parameters})
        raise ValueError(
            f"{unused} fit no trained parameter, needed the start of a parameter's name "
            f"(they start with {', '.join(parts)}). Correct it, or leave it out."
        )


def _without_decay(
    module: nn.Module, parameters: Mapping[str, nn.Parameter], rule: DecayRule
) -> set[str]:
    if rule == "all":
        return set()
    biases = {name for name in parameters if "bias" in name.rsplit(".", 1)[-1]}
    if rule == "all-but-biases":
        return biases
    vectors = {name for name, parameter in parameters.items() if parameter.ndim < 2}
    return biases | vectors | _parameters_of_norms(module)


def _parameters_of_norms(module: nn.Module) -> set[str]:
    """Names of all parameters inside a module that normalises, by the name of its class.

    The number of axes does not tell: side networks stack the norms of several layers.
    """
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        if "Norm" in type(part).__name__
        for name, _ in part.named_parameters()
    }
