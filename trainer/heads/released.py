"""Weights of a released head, found in a checkpoint by the names that the authors gave them."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import ConfigError

_WRAPPERS = ("model_ema", "model", "state_dict")  # MDETR's evaluation weights are the average


def head_tensors(path: str | Path, names: Iterable[str]) -> dict[str, Tensor]:
    """The tensors of a head out of a file that may hold a whole model.

    Args:
        path: A safetensors file, or a PyTorch checkpoint of plain tensors.
        names: Parameters of the head, such as `pooler.dense.weight`; in the file, other names
            may stand before them (`module.bert.pooler.dense.weight`).

    Raises:
        ConfigError: The file cannot be read, or holds a name not once.
    """
    tensors = _read(Path(path))
    found = {}
    for name in names:
        keys = [key for key in tensors if key == name or key.endswith(f".{name}")]
        if len(keys) != 1:
            raise ConfigError(
                "task.head_weights",
                [
                    f"{path} holds {keys or 'nothing'} for {name!r}, needed one tensor. "
                    "Name the checkpoint that the head was released in"
                ],
            )
        found[name] = tensors[keys[0]]
    return found


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # The authors' checkpoints carry their command line beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            document = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        problem = f"there is no file {path}. Correct the path"
        raise ConfigError("task.head_weights", [problem]) from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        problem = f"{path} cannot be read ({reason}), needed a safetensors file or a checkpoint"
        raise ConfigError("task.head_weights", [problem]) from error
    for wrapper in _WRAPPERS:
        if isinstance(document, dict) and isinstance(document.get(wrapper), dict):
            document = document[wrapper]
            break
    tensors = document if isinstance(document, dict) else {}
    return {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
