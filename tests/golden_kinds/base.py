"""What a golden file holds, and what replaying one of them hands back for comparison.

A golden file is one `.npz` made by the authors' own code (see tests/golden/README.md). Keys are
`input.*`, `input.cotangent.*`, `param.*`, `output.*`, `grad.*`, `grad_input.*` and `meta.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class GoldenFile:
    """One `.npz`, its keys sorted into groups and stripped of their prefix.

    Attributes:
        inputs: What the original was given; hidden states as `hidden_states` (L, ...) or
            `hidden_states.0`, `hidden_states.1`, ...
        cotangents: Output name to d(total) / d(output), for the outputs that have one.
        params: Parameters and buffers by their name in the original state_dict.
        outputs: What the original returned, and intermediate values.
        grads: d(total) / d(parameter), by parameter name.
        grad_inputs: d(total) / d(input), by input name.
        meta: Kind, hyper-parameters and origin.
    """

    path: Path
    inputs: Mapping[str, np.ndarray]
    cotangents: Mapping[str, np.ndarray]
    params: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]
    grads: Mapping[str, np.ndarray]
    grad_inputs: Mapping[str, np.ndarray]
    meta: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> GoldenFile:
        """Read every array of the file.

        Raises:
            KeyError: A key has none of the known prefixes.
        """
        groups: dict[str, dict[str, np.ndarray]] = {
            prefix: {}
            for prefix in ("input.cotangent", "input", "param", "output", "grad_input", "grad")
        }
        with np.load(path) as arrays:
            meta = json.loads(str(arrays["meta.json"]))
            for key in arrays.files:
                if key == "meta.json":
                    continue
                prefix = (
                    "input.cotangent" if key.startswith("input.cotangent.") else key.split(".")[0]
                )
                groups[prefix][key.removeprefix(f"{prefix}.")] = arrays[key]
        return cls(
            Path(path),
            groups["input"],
            groups["input.cotangent"],
            groups["param"],
            groups["output"],
            groups["grad"],
            groups["grad_input"],
            meta,
        )

    @property
    def kind(self) -> str:
        """Which of the original modules made it."""
        return str(self.meta["kind"])

    def tensor(self, name: str) -> Tensor:
        """One input as a fresh tensor; a leaf that wants a gradient if the file stores one."""
        tensor = torch.from_numpy(self.inputs[name].copy())
        return tensor.requires_grad_() if name in self.grad_inputs else tensor

    def hidden_states(self) -> list[Tensor]:
        """The stored hidden states, one tensor for each layer, in order."""
        if "hidden_states" in self.inputs:
            return list(self.tensor("hidden_states"))
        names = [name for name in self.inputs if name.startswith("hidden_states.")]
        return [self.tensor(f"hidden_states.{layer}") for layer in range(len(names))]

    def parameters(self) -> dict[str, Tensor]:
        """The original state_dict as fresh tensors; leaves where the file stores a gradient.

        Map them to our names and run `torch.func.functional_call(network, mapped, ...)`: then
        gradients arrive under the original names even where our layout stacks parameters.
        """
        tensors = {name: torch.from_numpy(value.copy()) for name, value in self.params.items()}
        for name in self.grads:
            tensors[name].requires_grad_()
        return tensors


@dataclass(frozen=True)
class Replay:
    """What our code gave for the inputs of one golden file.

    Attributes:
        outputs: By the file's output names, in the file's shapes; differentiable where the
            file has cotangents. Names that the file does not have are passed over.
        parameters: Leaves of the graph by the file's parameter names.
        inputs: Leaves of the graph by the file's input names.
        skipped: Outputs of the file (glob patterns) that have no counterpart here, each with the
            reason. An output that is neither replayed nor skipped fails the file.
    """

    outputs: Mapping[str, Tensor | np.ndarray]
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)


Kind = Callable[[GoldenFile], Replay]
