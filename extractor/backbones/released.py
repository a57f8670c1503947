"""Load networks written here from a folder with the released weights' names."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from .errors import UnsupportedBackboneError
from .kinds import read_config
from .resolve import ResolvedBackbone

C = TypeVar("C", bound=BaseModel)


def read_sizes(resolved: ResolvedBackbone, kind: type[C]) -> C:
    """The config.json of a folder, checked.

    Raises:
        UnsupportedBackboneError: Names every entry that is wrong.
    """
    document = read_config(resolved)
    try:
        # Through JSON, where a list is as good as a tuple.
        return kind.model_validate_json(json.dumps(document))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors()
        )
        raise UnsupportedBackboneError(
            f"{resolved.config}: {wrong}. Correct it, or convert the checkpoint again."
        ) from error


def load_weights(
    resolved: ResolvedBackbone, network: nn.Module, *, unread: tuple[str, ...] = ()
) -> None:
    """Fill a network from safetensors, whole.

    Args:
        resolved: The folder.
        network: To fill.
        unread: How names of tensors begin that may be there and are not needed.

    Raises:
        UnsupportedBackboneError: Tensors are missing, left over or of another size.
    """
    from safetensors.torch import load_file

    state: dict[str, Tensor] = {}
    try:
        for path in resolved.weights:
            state |= load_file(path)
    except (OSError, SafetensorError) as error:
        raise UnsupportedBackboneError(
            f"{resolved.name}: weights cannot be read ({error}). Copy or convert them again."
        ) from error
    own = network.state_dict()
    state = {name: value for name, value in state.items() if not name.startswith(unread)}
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    missing = sorted(own.keys() - state.keys() - counters)
    unknown = sorted(name for name in state.keys() - own.keys() if not _is_counter(name))
    wrong = sorted(n for n in state.keys() & own.keys() if state[n].shape != own[n].shape)
    for problem, names in (("lack", missing), ("also have", unknown), ("differ in size at", wrong)):
        if names:
            raise UnsupportedBackboneError(
                f"{resolved.name}: the weights {problem} {len(names)} tensors of "
                f"{type(network).__name__}, such as {names[0]!r}. Convert the checkpoint again, or "
                "correct the sizes in config.json."
            )
    network.load_state_dict(state, strict=False)


def _is_counter(name: str) -> bool:
    return name.endswith(("num_batches_tracked", "position_ids"))
