"""Networks written here as folders with the released weights' names: load and save them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from .errors import UnsupportedBackboneError
from .kinds import read_config
from .resolve import ResolvedBackbone

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

C = TypeVar("C", bound=BaseModel)

HEADS_FILE = "heads.safetensors"


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


def save_network(
    folder: Path,
    sizes: BaseModel,
    network: Mapping[str, Tensor],
    heads: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write a network as a folder that can be used as a backbone.

    Args:
        folder: Where to; made if it is not there.
        sizes: For config.json.
        network: Tensors of the frozen network by their released names.
        heads: Tensors of what is trained on it.
        tokenizer: Of its text encoder.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(sizes.model_dump_json(indent=2) + "\n")
    for file, tensors in ((HEADS_FILE, heads), ("model.safetensors", network)):
        # Copies, since tensors that share memory cannot be saved.
        whole = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
        save_file(whole, folder / file)
