"""Measures how far a replay is from what the original code gave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch

import numpy as np
import torch
from torch import Tensor

from .base import GoldenFile, Replay

OUTPUT_BOUND = 2e-5
"""float32 outputs, of their peak (tests/golden/README.md)."""
SMALLEST_SHARE = 0.01
"""An output's peak is its own largest magnitude, stricter than the page asks, but at least this
share of the file's: a loss near zero keeps the rounding of the large logits it is made from."""
METRIC_BOUND = 1e-9
"""float64 outputs, of their own peak: metrics are sums and quotients of small integers."""
GRADIENT_BOUND = 1e-4
"""Gradients, of the largest gradient in the file: some are pure rounding noise around zero."""


@dataclass(frozen=True)
class Verdict:
    """The comparison of one file.

    Attributes:
        outputs: Largest relative error of the outputs.
        gradients: Largest error of the gradients over the file's largest gradient.
        num_outputs: Outputs compared.
        num_gradients: Gradients compared.
        problems: What makes the file fail; empty if it passes.
    """

    outputs: float
    gradients: float
    num_outputs: int
    num_gradients: int
    problems: tuple[str, ...]


def compare(golden: GoldenFile, replay: Replay) -> Verdict:
    """Check a replay against its file, gradients included."""
    problems = _coverage(golden, replay)
    errors = {
        name: _relative_error(value, golden.outputs[name], _peak(name, golden))
        for name, value in replay.outputs.items()
        if name in golden.outputs
    }
    for name, error in errors.items():
        if not error <= _bound(golden.outputs[name]):
            problems.append(f"output {name} is off by {error:.1e}")
    gradient_errors = _gradient_errors(golden, replay) if not problems else {}
    for name, error in gradient_errors.items():
        if not error <= GRADIENT_BOUND:
            problems.append(f"gradient of {name} is off by {error:.1e}")
    return Verdict(
        max(errors.values(), default=0.0),
        max(gradient_errors.values(), default=0.0),
        len(errors),
        len(gradient_errors),
        tuple(problems),
    )


def _coverage(golden: GoldenFile, replay: Replay) -> list[str]:
    missing = [
        name
        for name in golden.outputs
        if name not in replay.outputs
        and (name in golden.cotangents or not any(fnmatch(name, p) for p in replay.skipped))
    ]
    no_gradient = sorted(
        (golden.grads.keys() - replay.parameters.keys())
        | (golden.grad_inputs.keys() - replay.inputs.keys())
    )
    return [
        *(f"output {name} was not replayed" for name in missing),
        *(f"gradient of {name} was not replayed" for name in no_gradient),
    ]


def _bound(reference: np.ndarray) -> float:
    if reference.dtype == np.float64:
        return METRIC_BOUND
    return OUTPUT_BOUND if np.issubdtype(reference.dtype, np.floating) else 0.0


def _peak(name: str, golden: GoldenFile) -> float:
    own = _largest(golden.outputs[name])
    if _bound(golden.outputs[name]) != OUTPUT_BOUND:
        return own
    peers = (value for value in golden.outputs.values() if _bound(value) == OUTPUT_BOUND)
    return max(own, SMALLEST_SHARE * max(map(_largest, peers)))


def _largest(reference: np.ndarray) -> float:
    values = reference.astype(float)
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _relative_error(value: Tensor | np.ndarray, reference: np.ndarray, peak: float) -> float:
    """Largest difference over the peak (1 where that is 0); infinite where shapes, NaNs or
    infinities disagree.
    """
    ours = np.asarray(value.detach() if isinstance(value, Tensor) else value).astype(float)
    if ours.shape != reference.shape:
        return float("inf")
    theirs = reference.astype(float)
    with np.errstate(invalid="ignore"):
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))
        difference = np.where(same, 0.0, np.abs(ours - theirs))
    worst = float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0.0))
    return worst / (peak or 1.0)


def _gradient_errors(golden: GoldenFile, replay: Replay) -> dict[str, float]:
    references = {**_named("input", golden.grad_inputs), **_named("parameter", golden.grads)}
    if not references:
        return {}
    leaves = {**_named("input", replay.inputs), **_named("parameter", replay.parameters)}
    total = torch.stack(
        [
            (replay.outputs[name] * torch.from_numpy(cotangent)).sum()
            for name, cotangent in golden.cotangents.items()
        ]
    ).sum()
    gradients = torch.autograd.grad(total, [leaves[k] for k in references], allow_unused=True)
    peak = max(map(_largest, references.values()))
    errors = {}
    for (name, reference), gradient in zip(references.items(), gradients, strict=True):
        ours = np.zeros_like(reference) if gradient is None else gradient.numpy()
        errors[name] = _relative_error(ours, reference, peak)
    return errors


def _named(what: str, group: Mapping[str, object]) -> dict[str, object]:
    return {f"{what} {name}": value for name, value in group.items()}
