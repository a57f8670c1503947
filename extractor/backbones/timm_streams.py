"""Which streams and layers the states of a timm model make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from cache_schema import LayerSpec, StreamSpec

from .timm_states import Grid, State, StateReader

# Maps finer than a quarter of the image are most of a CNN's numbers and the least of its
# knowledge; the paper, too, starts at a quarter (ResNeXt's layer1).
_FINEST = 4
TOKENS, OUTPUT = "tokens", "output"


@dataclass(frozen=True)
class Outline:
    """How the states of a model make streams.

    Attributes:
        streams: With all their layers.
        sources: Stream to the number of the state that each of its layers is, in `all_states`.
        rows: Stream to its rows for one image.
        grids: Stream that has a shape to (height, width).
    """

    streams: tuple[StreamSpec, ...]
    sources: Mapping[str, tuple[int, ...]]
    rows: Mapping[str, int]
    grids: Mapping[str, Grid]


def all_states(reader: StateReader, images_B3HW: Tensor) -> list[State | None]:
    """What enters the first block (or None), every intermediate, the last state."""
    entered, between, last = reader.read(images_B3HW)
    return [entered, *between, last]


@dataclass(frozen=True)
class _Entry:
    """A layer to store: the number of its state, and the state."""

    number: int
    state: State
    module: str
    is_normed: bool


@torch.no_grad()
def outline(reader: StateReader, images_B3HW: Tensor) -> Outline:
    """Find out by running some images what a model gives.

    Args:
        reader: Of the model.
        images_B3HW: Any images of the size that will be used; random ones, so that a norm shows.
    """
    entered, between, last = reader.read(images_B3HW)
    first_module, last_module = reader.boundary_modules(images_B3HW)
    is_flat = len({state.shape for state in between}) == 1
    entries = [
        _Entry(number, state, module, is_normed=False)
        for number, (state, module) in enumerate(zip(between, reader.modules, strict=True), 1)
        if is_flat or not _is_too_fine(state, images_B3HW)
    ]
    if is_flat and entered is not None:
        entries.insert(0, _Entry(0, entered, first_module, is_normed=False))
    has_same_shape = last.shape == between[-1].shape
    if not has_same_shape or not torch.equal(last.rows_BRC, between[-1].rows_BRC):
        # A last state of another width comes out of a convolution, not of a norm.
        is_normed = last.shape[1] == between[-1].shape[1]
        if has_same_shape:
            entries.pop()
        entries.append(_Entry(len(between) + 1, last, last_module, is_normed))
    return _outline(entries, is_flat=is_flat)


def _is_too_fine(state: State, images_B3HW: Tensor) -> bool:
    return state.grid is not None and state.grid[0] > -(-images_B3HW.shape[2] // _FINEST)


def _outline(entries: Sequence[_Entry], *, is_flat: bool) -> Outline:
    has_norm = any(entry.is_normed for entry in entries)
    first_index = 0 if entries[0].number == 0 else 1
    layers = [
        LayerSpec(
            index=index, module=entry.module, final_norm=entry.is_normed if has_norm else None
        )
        for index, entry in enumerate(entries, first_index)
    ]
    streams: list[StreamSpec] = []
    sources: dict[str, tuple[int, ...]] = {}
    rows: dict[str, int] = {}
    grids: dict[str, Grid] = {}
    pairs = zip(entries, layers, strict=True)
    for shape, group in groupby(pairs, key=lambda pair: pair[0].state.shape):
        members = list(group)
        state = members[0][0].state
        has_grid = state.grid is not None and not is_flat
        if is_flat:
            name = OUTPUT if streams else TOKENS
        else:
            name = f"stage{len(streams) + 1}" if has_grid else OUTPUT
        if has_grid and state.grid is not None:
            grids[name] = state.grid
        streams.append(
            StreamSpec(
                name=name,
                width=shape[1],
                layers=tuple(layer for _, layer in members),
                axes=("height", "width") if has_grid else (),
            )
        )
        sources[name] = tuple(entry.number for entry, _ in members)
        rows[name] = state.rows_BRC.shape[1]
    return Outline(tuple(streams), sources, rows, grids)
