"""UniPT for maps of different sizes: the stages of a CNN.

B samples, P cells of the last maps (packed), N cells of a larger map (packed), K cells of the
largest region, C channels of the larger map, D channels of the last map, G guided layers,
E output width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cache_schema import FeatureBatch, StreamBatch, StreamSpec

from .base import (
    IncompatibleNetworkError,
    RowMasks,
    SideFeatures,
    SideNetwork,
    compute_dtype,
    pick_streams,
)
from .blocks import ParallelPath
from .interaction import normalise_scores
from .options import UniPTConfig
from .places import Places
from .setup import guided_layers, initialise, output_width, reduced_width


class Regions(NamedTuple):
    """Which cells of the larger maps belong to which cell of the last maps.

    Attributes:
        cells: (P, K) int64 packed rows of the larger maps; 0 where a region has fewer cells.
        present: (P, K) bool, True where `cells` is one.
    """

    cells: Tensor
    present: Tensor


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
def find_regions(larger: StreamBatch, last: StreamBatch) -> Regions:
    """Regions of every sample's larger map under its last map.

    Reads the grids on the CPU, which waits for the accelerator once per stream and step.

    Raises:
        IncompatibleNetworkError: A stream has no grid.
    """
    if larger.grid is None or last.grid is None:
        raise IncompatibleNetworkError(
            "network unipt: a stream has no grid, structure: maps needed the (height, width) of "
            "every map. Extract it again, or choose another network.structure."
        )
    shapes = list(zip(larger.grid.tolist(), last.grid.tolist(), strict=True))
    per_sample = [_map_regions(tuple(fine), tuple(coarse)) for fine, coarse in shapes]
    largest = max(regions.cells.shape[1] for regions in per_sample)
    cells, start = [], 0
    for (fine, _), regions in zip(shapes, per_sample, strict=True):
        shifted = torch.where(regions.present, regions.cells + start, -1)
        cells.append(nn.functional.pad(shifted, (0, largest - shifted.shape[1]), value=-1))
        start += fine[0] * fine[1]
    cells_PK = torch.cat(cells).to(larger.values.device)
    return Regions(cells_PK.clamp(min=0), cells_PK >= 0)


class RegionReading(nn.Module):
    """One layer of a larger map brought to the cells of the last map.

    Learned guidance scores every cell by its product with a projection of the last map's cell
    above it; the scores are normalised over the region, and one over its number of cells is
    added, so that the region's mean is always part of what is read.
    """

    def __init__(self, config: UniPTConfig, width: int, last_width: int) -> None:
        super().__init__()
        self.config = config
        self.guidance: nn.Linear | None = None
        if config.regions == "learned":
            self.guidance = nn.Linear(last_width, width, bias=config.bias)

    def forward(self, layer_NC: Tensor, last_PD: Tensor, regions: Regions) -> tuple[Tensor, Tensor]:
        """Bring a layer to the last map's cells.

        Args:
            layer_NC: Hidden states of the layer, any floating dtype.
            last_PD: Hidden states of the last map, any floating dtype.
            regions: Which cells are read by which.

        Returns:
            (P, C) hidden states, and (P, K) guided weights before the mean is added.
        """
        present_PK = regions.present
        mean_PK = present_PK / present_PK.sum(1, keepdim=True)
        if self.guidance is None:
            cells_PKC = layer_NC[regions.cells].float()
            weights_PK = torch.zeros_like(mean_PK)
        else:
            dtype = compute_dtype(self.guidance.weight)
            cells_PKC = layer_NC[regions.cells].to(dtype)
            guidance_PC = self.guidance(last_PD.to(dtype)).relu()
            scores_PK = torch.bmm(cells_PKC, guidance_PC[:, :, None]).squeeze(2) * present_PK
            weights_PK = normalise_scores(scores_PK, 1, self.config.eps, self.config.eps_rule)
        paths_PK = (weights_PK + mean_PK).to(cells_PKC)
        return torch.bmm(paths_PK[:, None], cells_PKC).squeeze(1), weights_PK


class MapUniPT(SideNetwork):
    """UniPT where each stream is a map of its own size, and the last one's cells are the output's.

    Larger maps are brought to the last map's size region by region, at their own width, before
    anything is reduced.
    """

    def __init__(self, config: UniPTConfig, streams: Sequence[StreamSpec]) -> None:
        super().__init__()
        self.preset = config.preset
        chosen = pick_streams(config.name, config.streams, streams)
        anchor = chosen[-1]
        flat = [stream.name for stream in chosen if len(stream.axes) != 2]
        if flat:
            raise IncompatibleNetworkError(
                f"network unipt: streams {flat!r} have no (height, width), structure: maps needed "
                "maps. Choose network.streams that are maps, or network.structure: tokens."
            )
        guided = guided_layers(config, chosen, anchor)
        self.anchor_stream = anchor.name
        self.guided_positions = guided
        self.regions = nn.ModuleList(
            RegionReading(config, stream.width, anchor.width)
            for stream in chosen[:-1]
            for _ in guided.get(stream.name, ())
        )
        self.out_width = output_width(config, anchor)
        self.path = ParallelPath(
            config,
            anchor=(anchor.width, len(anchor.layers) - 1),
            guided=[(s.width, range(len(guided[s.name]))) for s in chosen if s.name in guided],
            reduced=reduced_width(config, self.out_width),
            width=self.out_width,
        )
        initialise(self, config)

    def forward(self, batch: FeatureBatch, masks: RowMasks | None = None) -> SideFeatures:
        """(P, E) rows at the cells of the last map, and (B, G) confidence."""
        anchor = batch.streams[self.anchor_stream]
        last_PD = anchor.values[:, -1]
        readings = iter(self.regions)
        guided: list[Tensor] = []
        for name, positions in self.guided_positions.items():
            stream = batch.streams[name]
            if name == self.anchor_stream:
                guided.append(stream.values[:, list(positions)])
                continue
            regions = find_regions(stream, anchor)
            layers = [next(readings)(stream.values[:, at], last_PD, regions)[0] for at in positions]
            guided.append(torch.stack(layers, dim=1))
        places = Places(anchor.layout, (masks or {}).get(self.anchor_stream))
        rows_PE, confidence_BG = self.path(anchor.values, guided, places, places)
        return SideFeatures(rows_PE, anchor.layout, confidence=confidence_BG, grid=anchor.grid)
