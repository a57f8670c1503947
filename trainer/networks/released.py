"""The authors' parameter names and ours, so that their checkpoints load.

Ours stack the same parameter of several layers into one tensor, in stored order, and write 1 x 1
convolutions as the linear maps they are. docs/networks.md has the table in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cache_schema import UserError

from .base import SideNetwork
from .unipt import TokenUniPT

Table = dict[str, Sequence[str]]
"""Our parameter to the authors' parameters that it stacks."""


class ReleasedCheckpointError(UserError):
    """A checkpoint does not have the parameters that this network has."""


def load_released(network: SideNetwork, state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Load a checkpoint of the authors' into a network built like theirs.

    Args:
        network: From `build_network`, with the preset of the checkpoint's system.
        state: The state_dict they saved.
        prefix: Where the side network sits in it, such as `side_tuning_module.`; the names under
            it are those of the authors' side module.

    Raises:
        ReleasedCheckpointError: A parameter is missing, has another shape, or is not ours.
    """
    network.load_state_dict(translate(network, state, prefix))


def translate(
    network: SideNetwork, state: Mapping[str, Tensor], prefix: str = ""
) -> dict[str, Tensor]:
    """The authors' parameters under our names and in our shapes; gradients flow through.

    Raises:
        ReleasedCheckpointError: A parameter is missing, has another shape, or is not ours.
    """
    table = _table(network)
    theirs = {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }
    used = {name for names in table.values() for name in names}
    missing, unknown = sorted(used - theirs.keys()), sorted(theirs.keys() - used)
    if missing or unknown:
        raise ReleasedCheckpointError(
            f"released checkpoint: lacks {missing[:3]!r} and has unknown {unknown[:3]!r} under "
            f"{prefix!r}. Check the prefix, and that the network has the preset, layers and "
            "widths of the checkpoint."
        )
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    return {
        ours: _stack(ours, [theirs[name] for name in names], shapes[ours])
        for ours, names in table.items()
    }


def _stack(name: str, parts: Sequence[Tensor], shape: torch.Size) -> Tensor:
    # Counters of batches have no shape and are the same in all layers that we stack.
    whole = parts[0] if not shape else torch.stack(tuple(parts))
    if whole.numel() != shape.numel():
        raise ReleasedCheckpointError(
            f"released checkpoint: {name} has {whole.numel()} numbers, needed {tuple(shape)}. "
            "Build the network with the widths and the reduction of the checkpoint."
        )
    return whole.reshape(shape)


def _module(ours: str, *theirs: str) -> Table:
    return {f"{ours}.{part}": [f"{name}.{part}" for name in theirs] for part in ("weight", "bias")}


def _table(network: SideNetwork) -> Table:
    match network:
        case TokenUniPT():
            return _vse_text(network)
    raise ReleasedCheckpointError(
        f"released checkpoint: there is none for {type(network).__name__}. Build a network of one "
        "of the released systems."
    )


def _vse_text(network: TokenUniPT) -> Table:
    counts = [len(part.positions) for part in network.reductions()]
    starts = [sum(counts[:i]) for i in range(len(counts))]
    table: Table = {}
    for stream, (start, count) in enumerate(zip(starts, counts, strict=True)):
        layers = [f"downsample_layers.{i}" for i in range(start, start + count)]
        table |= _module(f"guided.{stream}", *(f"{layer}.0" for layer in layers))
        table |= _module(f"guided.{stream}.norm", *(f"{layer}.1" for layer in layers))
    anchor = f"downsample_layers.{sum(counts)}"
    return {
        **table,
        **_module("anchor", f"{anchor}.0"),
        **_module("anchor.norm", f"{anchor}.1"),
        **_module("block.interaction.gate", "gate_layer"),
        **_module("block.feed_forward.output", "projection_layer.0"),
        **_module("block.feed_forward.norm", "projection_layer.1"),
        **_module("upsample.linear", "upsample_layer.1"),
    }
