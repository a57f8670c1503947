"""Which layers of a backbone are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cache_schema import StreamSpec

from .errors import BackboneError


def choose_layers(
    name: str, streams: Sequence[StreamSpec], chosen: Literal["all"] | tuple[int, ...]
) -> tuple[StreamSpec, ...]:
    """The streams with the layers that were asked for, by index.

    A stream of several layers keeps its last one, the anchor, in any case; a stream of one layer
    (a map, an embedding) is left out unless it is asked for or is the last stream.

    Raises:
        BackboneError: No stream has one of these layers; names those there are.
    """
    if isinstance(chosen, str):
        return tuple(streams)
    known = sorted({layer.index for stream in streams for layer in stream.layers})
    wrong = sorted(set(chosen) - set(known))
    if wrong:
        raise BackboneError(
            f"{name}: layers {wrong!r} were asked for, it has {known[0]} (embeddings where it is "
            f"0) to {known[-1]}. Choose among those."
        )
    kept = []
    for stream in streams:
        is_needed = len(stream.layers) > 1 or stream is streams[-1]
        layers = tuple(
            layer
            for layer in stream.layers
            if layer.index in chosen or (is_needed and layer is stream.layers[-1])
        )
        if layers:
            kept.append(stream.model_copy(update={"layers": layers}))
    return tuple(kept)
