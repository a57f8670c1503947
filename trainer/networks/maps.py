"""UniPT for maps of different sizes: the stages of a CNN.

B samples, P cells of the last maps (packed), N cells of a larger map (packed), K cells of the
largest region, C channels of the larger map, D channels of the last map, G guided layers,
E output width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cache_schema import FeatureBatch, StreamSpec

from .base import (
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
from .regions import Regions, check_maps, find_regions, region_means
from .setup import guided_layers, initialise, output_width, reduced_width


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
        if self.guidance is None:
            return region_means(layer_NC, regions), torch.zeros_like(regions.mean_weights())
        dtype = compute_dtype(self.guidance.weight)
        cells_PKC = layer_NC[regions.cells].to(dtype)
        guidance_PC = self.guidance(last_PD.to(dtype)).relu()
        scores_PK = torch.bmm(cells_PKC, guidance_PC[:, :, None]).squeeze(2) * regions.present
        weights_PK = normalise_scores(scores_PK, 1, self.config.eps, self.config.eps_rule)
        paths_PK = (weights_PK + regions.mean_weights()).to(dtype)
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
        check_maps(config.name, chosen)
        guided = guided_layers(config, chosen, anchor)
        self.anchor_stream = anchor.name
        self.guided_positions = guided
        widths = {stream.name: stream.width for stream in chosen}
        self.read_layers = [
            (name, at) for name, ats in guided.items() if name != anchor.name for at in ats
        ]
        self.regions = nn.ModuleList(
            RegionReading(config, widths[name], anchor.width) for name, _ in self.read_layers
        )
        self.row_stream = anchor.name
        self.out_width = output_width(config, anchor)
        self.path = ParallelPath(
            config,
            anchor=(anchor.width, len(anchor.layers) - 1),
            guided=[(widths[name], range(len(ats))) for name, ats in guided.items()],
            reduced=reduced_width(config, self.out_width),
            width=self.out_width,
        )
        initialise(self, config.initialisation)

    def forward(self, batch: FeatureBatch, masks: RowMasks | None = None) -> SideFeatures:
        """(P, E) rows at the cells of the last map, and (B, G) confidence."""
        anchor = batch.streams[self.anchor_stream]
        larger = [name for name in self.guided_positions if name != self.anchor_stream]
        regions = find_regions({name: batch.streams[name] for name in larger}, anchor)
        last_PD = anchor.values[:, -1]
        layers: dict[str, list[Tensor]] = {name: [] for name in self.guided_positions}
        for (name, at), reading in zip(self.read_layers, self.regions, strict=True):
            values_NC = batch.streams[name].values[:, at]
            layers[name].append(reading(values_NC, last_PD, regions[name])[0])
        if self.anchor_stream in layers:
            positions = self.guided_positions[self.anchor_stream]
            layers[self.anchor_stream] = [anchor.values[:, at] for at in positions]
        guided = [torch.stack(parts, dim=1) for parts in layers.values()]
        places = Places(anchor.layout, (masks or {}).get(self.anchor_stream))
        rows_PE, confidence_BG = self.path(anchor.values, guided, places, places)
        return SideFeatures(rows_PE, anchor.layout, confidence=confidence_BG, grid=anchor.grid)
