"""Which cells of one map lie under each cell of another, for maps of any sizes.

B samples, P cells of the last maps (packed), N cells of a larger map (packed), K cells of the
largest region, C channels of the larger map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cache_schema import StreamBatch, StreamSpec

from .base import IncompatibleNetworkError, wide


class Regions(NamedTuple):
    """Which cells of the larger maps belong to which cell of the last maps.

    Attributes:
        cells: (P, K) int64 packed rows of the larger maps; 0 where a region has fewer cells.
        present: (P, K) bool, True where `cells` is one.
    """

    cells: Tensor
    present: Tensor

    def to(self, device: torch.device) -> Regions:
        """The same regions on another device."""
        return Regions(self.cells.to(device), self.present.to(device))

    def mean_weights(self) -> Tensor:
        """(P, K) float32: 1 / number of cells where there is one, else 0."""
        return self.present / self.present.sum(1, keepdim=True)


def check_maps(network: str, streams: Sequence[StreamSpec]) -> None:
    """Every stream needs positions with a height and a width.

    Raises:
        IncompatibleNetworkError: Some stream has none.
    """
    if flat := [stream.name for stream in streams if len(stream.axes) != 2]:
        raise IncompatibleNetworkError(
            f"network {network}: streams {flat!r} have no (height, width), needed maps. Choose "
            "network.streams that are maps, or a network that reads tokens."
        )


def grid_of(stream: StreamBatch) -> Tensor:
    """(B, 2) height and width of each sample's map.

    Raises:
        IncompatibleNetworkError: The stream has none.
    """
    if stream.grid is None or stream.grid.shape[1] != 2:
        raise IncompatibleNetworkError(
            "network: a stream has no grid, needed the (height, width) of every map. Extract it "
            "again, or choose a network that reads tokens."
        )
    return stream.grid


@lru_cache(maxsize=1024)
def _map_regions(fine: tuple[int, int], coarse: tuple[int, int]) -> Regions:
    """Regions of one map of (height, width) cells under another.

    Cut as adaptive pooling does: from floor(i * fine / coarse) up to ceil((i + 1) * fine /
    coarse). So k x k blocks where the sizes divide, and no region is ever empty.
    """
    rows, columns = (
        [range(i * size // parts, -(-(i + 1) * size // parts)) for i in range(parts)]
        for size, parts in zip(fine, coarse, strict=True)
    )
    regions = [
        torch.tensor([y * fine[1] + x for y in ys for x in xs]) for ys in rows for xs in columns
    ]
    cells = nn.utils.rnn.pad_sequence(regions, batch_first=True, padding_value=-1)
    return Regions(cells, cells >= 0)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch leaves it unannotated
def find_regions(larger: Mapping[str, StreamBatch], last: StreamBatch) -> dict[str, Regions]:
    """Regions of every stream's maps under the last maps, sample by sample.

    Reads the grids on the CPU, which waits for the accelerator; a compiled network leaves its
    graph here, so it is called once and before anything is differentiated.
    """
    coarse = [tuple(shape) for shape in grid_of(last).tolist()]
    return {
        name: _batch_regions([tuple(shape) for shape in grid_of(stream).tolist()], coarse).to(
            stream.values.device
        )
        for name, stream in larger.items()
    }


def _batch_regions(fine: Sequence[tuple[int, int]], coarse: Sequence[tuple[int, int]]) -> Regions:
    per_sample = [_map_regions(*shapes) for shapes in zip(fine, coarse, strict=True)]
    largest = max(regions.cells.shape[1] for regions in per_sample)
    cells, start = [], 0
    for (height, width), regions in zip(fine, per_sample, strict=True):
        shifted = torch.where(regions.present, regions.cells + start, -1)
        cells.append(nn.functional.pad(shifted, (0, largest - shifted.shape[1]), value=-1))
        start += height * width
    cells_PK = torch.cat(cells)
    return Regions(cells_PK.clamp(min=0), cells_PK >= 0)


def region_means(cells_NC: Tensor, regions: Regions) -> Tensor:
    """(P, C) average of each region's cells, float32 or wider."""
    members_PKC = wide(cells_NC[regions.cells])
    weights_PK = regions.mean_weights().to(members_PKC)
    return torch.bmm(weights_PK[:, None], members_PKC).squeeze(1)
