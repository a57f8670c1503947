"""What the structures of UniPT share when they are built: checks, positions, initial weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from cache_schema import StreamSpec

from .base import IncompatibleNetworkError
from .options import InitialisationName, UniPTConfig


def initialise(network: nn.Module, kind: InitialisationName) -> None:
    """Set the weights as the system's authors do; torch's defaults are there already.

    Norms keep their ones and zeros. Source: golden/PAPER_VS_CODE.md, "Initialisation of the side
    parameters".
    """
    if kind == "torch":
        return
    for name, parameter in network.named_parameters():
        owner, leaf = name.rsplit(".", 1) if "." in name else ("", name)
        if owner.endswith("norm"):
            continue
        if leaf == "weight" and parameter.dim() in (2, 3):
            # A stacked weight is one matrix for each layer: widths, not the stack, set its scale.
            for matrix in parameter.unbind() if parameter.dim() == 3 else (parameter,):
                if kind == "bert":
                    nn.init.normal_(matrix, std=0.02)
                else:
                    nn.init.xavier_uniform_(matrix)
        elif leaf == "bias" and kind == "bert":
            nn.init.zeros_(parameter)


def guided_layers(
    config: UniPTConfig, streams: Sequence[StreamSpec], anchor: StreamSpec | None
) -> dict[str, tuple[int, ...]]:
    """Where the guided layers are stored in each stream that has any.

    Args:
        config: Its `layers` are backbone indices; empty for all.
        streams: Those that may guide.
        anchor: The one of them whose last layer is the anchor, which guides nothing.

    Raises:
        IncompatibleNetworkError: A wanted layer is not stored, or none is left.
    """
    stored = {
        stream.name: [layer.index for layer in stream.layers][: -1 if stream is anchor else None]
        for stream in streams
    }
    missing = set(config.layers).difference(*stored.values())
    positions = {
        name: tuple(at for at, index in enumerate(indices) if index in (config.layers or indices))
        for name, indices in stored.items()
    }
    positions = {name: chosen for name, chosen in positions.items() if chosen}
    if missing or not positions:
        raise IncompatibleNetworkError(
            f"network unipt: layers below the anchor are {stored!r}, needed "
            f"{sorted(missing) or 'at least one'!r} among them. Set network.layers to some of "
            "these, or extract more layers."
        )
    return positions


def output_width(config: UniPTConfig, anchor: StreamSpec) -> int:
    """E: as configured, or the anchor's.

    Raises:
        IncompatibleNetworkError: A residual on the anchor itself needs an output as wide as it.
    """
    width = config.width or anchor.width
    if config.residual == "anchor" and width != anchor.width:
        raise IncompatibleNetworkError(
            f"network unipt: width is {width}, residual: anchor needed {anchor.width}, the width "
            f"of stream {anchor.name!r}. Leave network.width at null."
        )
    return width


def reduced_width(config: UniPTConfig, width: int) -> int:
    """R: the output width over the reduction factor.

    Raises:
        IncompatibleNetworkError: Less than one number is left, or the heads do not divide it.
    """
    reduced = width // config.reduction
    if reduced < 1 or reduced % config.heads:
        raise IncompatibleNetworkError(
            f"network unipt: width {width} with reduction {config.reduction} and {config.heads} "
            f"heads gives a reduced width of {reduced}, needed at least 1 and a multiple of the "
            "heads. Choose a smaller network.reduction or other network.heads."
        )
    return reduced
