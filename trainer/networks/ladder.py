"""Ladder side-tuning: a thin copy of the backbone, fed with the backbone's layers on the way.

N packed rows, D backbone width, R side width, L stored layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cache_schema import FeatureBatch, StreamSpec

from .base import (
    IncompatibleNetworkError,
    NetworkOptions,
    RowMasks,
    SideFeatures,
    SideNetwork,
    check_same_rows,
    pick_streams,
)
from .ladder_blocks import (
    LAYER_NORM_EPS,
    ActivationName,
    BlockName,
    BlockSizes,
    ConvBlock,
    MapPlaces,
    TransformerBlock,
    place_maps,
)
from .per_layer import PerLayerLinear
from .places import Places
from .regions import check_maps, find_regions, grid_of, region_means
from .setup import initialise


class LadderConfig(NetworkOptions):
    """Ladder side-tuning (LST): the side layers are the backbone's own kind at width / reduction.

    Source: Sung et al. 2022, arXiv 2206.06522; gates, order and initial values as released
    (golden/README.md, 3.19).
    """

    name: Literal["lst"] = Field(default="lst", description="ladder side-tuning")
    streams: tuple[str, ...] = Field(
        default=(), description="streams to read, in order, lowest layers first. Empty: all"
    )
    block: BlockName = Field(
        default="post-norm",
        description="kind of side layer: post-norm (BERT), pre-norm (ViT, CLIP), conv (CNN; maps "
        "are average pooled to the last one's size)",
    )
    layers: tuple[int, ...] = Field(
        default=(), description="backbone indices of the layers that get a side layer. Empty: all"
    )
    reduction: int = Field(default=4, gt=0, description="backbone width / side width")
    heads: int | None = Field(
        default=None,
        gt=0,
        description="attention heads; null: one per 64 of the backbone's width, as BERT has",
    )
    expansion: int = Field(
        default=4, gt=0, description="hidden / side width of the perceptron; inverse for conv"
    )
    activation: ActivationName = Field(default="gelu", description="inside the perceptron")
    causal: bool = Field(default=False, description="tokens read only those before them")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="share dropped in side layers")
    merge: Literal["before", "after"] = Field(
        default="before",
        description="whether a backbone layer joins before or after its side layer",
    )
    temperature: float = Field(default=0.1, gt=0, description="gate = sigmoid(alpha / this)")
    bias: bool = Field(default=False, description="biases in the maps to and from the side width")


def merge_gated(side: Tensor, ladder: Tensor, alpha: Tensor, temperature: float) -> Tensor:
    """`g * side + (1 - g) * ladder` with `g = sigmoid(alpha / temperature)`, a scalar per layer."""
    gate = (alpha / temperature).sigmoid().to(side.dtype)
    return torch.lerp(ladder, side, gate)


def _block_sizes(config: LadderConfig, backbone_width: int) -> BlockSizes:
    width = backbone_width // config.reduction
    wanted = config.heads or max(1, backbone_width // 64)
    # Without a wish, fewer heads are fine; a wish that cannot be met is an error.
    heads = wanted if config.heads else max(h for h in range(1, wanted + 1) if width % h == 0)
    if width < 1 or width % heads:
        raise IncompatibleNetworkError(
            f"network lst: width {backbone_width} with reduction {config.reduction} gives a side "
            f"width of {width}, needed at least 1 and a multiple of {heads} heads. Choose other "
            "network.reduction or network.heads."
        )
    return BlockSizes(
        width, heads, config.expansion, config.dropout, config.activation, config.causal
    )


def _rungs(config: LadderConfig, indices: Sequence[int]) -> tuple[int, ...]:
    """Which of the stored layers get a side layer; never the first, which is where it starts."""
    wanted = config.layers or tuple(indices[1:])
    if not wanted or not set(wanted) <= set(indices[1:]):
        raise IncompatibleNetworkError(
            f"network lst: layers above the first are {list(indices[1:])!r}, needed "
            f"{list(wanted) or 'at least one'!r} among them. Set network.layers to some of these, "
            "or extract more layers."
        )
    return tuple(at for at, index in enumerate(indices) if at and index in wanted)


class Ladder(SideNetwork):
    """A side layer for each backbone layer, joined by learned gates.

    All maps into the side width run in one product before the ladder is climbed.
    """

    def __init__(self, config: LadderConfig, streams: Sequence[StreamSpec]) -> None:
        super().__init__()
        self.config = config
        chosen = pick_streams(config.name, config.streams, streams)
        if config.block == "conv":
            check_maps(config.name, chosen)
        self.row_stream = chosen[-1].name
        self.out_width = chosen[-1].width
        sizes = _block_sizes(config, self.out_width)
        stored = [(stream, at) for stream in chosen for at in range(len(stream.layers))]
        self.rungs = _rungs(config, [stream.layers[at].index for stream, at in stored])
        self.sources = {
            stream.name: tuple(
                at
                for i, (owner, at) in enumerate(stored)
                if owner is stream and i in (0, *self.rungs)
            )
            for stream in chosen
        }
        self.down = nn.ModuleList(
            self._reduction(stream, sizes.width) for stream in chosen if self.sources[stream.name]
        )
        # One for every stored layer, as the authors have it, also where the side layer is dropped.
        self.gates = nn.Parameter(torch.zeros(len(stored) - 1))
        self.blocks = nn.ModuleList(_block(config.block, sizes) for _ in self.rungs)
        self.norm: nn.Module = nn.Identity()
        if config.block == "pre-norm":
            self.norm = nn.LayerNorm(sizes.width, eps=LAYER_NORM_EPS)
        self.up = nn.Linear(sizes.width, self.out_width, bias=config.bias)
        initialise(self, "bert")

    def _reduction(self, stream: StreamSpec, width: int) -> PerLayerLinear:
        positions = self.sources[stream.name]
        if self.config.block == "conv":
            positions = tuple(range(len(positions)))
        return PerLayerLinear(
            stream.width, width, positions, norm="none", bias=self.config.bias, activate=False
        )

    def forward(self, batch: FeatureBatch, masks: RowMasks | None = None) -> SideFeatures:
        """(N, D) rows; for maps, at the cells of the last one."""
        names = list(self.sources)
        last = batch.streams[names[-1]]
        places: Places | MapPlaces = Places(last.layout, (masks or {}).get(names[-1]))
        if self.config.block == "conv":
            places = place_maps(grid_of(last))
            values = self._pooled(batch, names)
        else:
            check_same_rows(self.config.name, names, batch)
            values = [batch.streams[name].values for name in names if self.sources[name]]
        parts = [down(layers) for down, layers in zip(self.down, values, strict=True)]
        start_NR, *ladder_NR = torch.cat(parts, dim=1).unbind(1)
        side_NR = start_NR
        for rung, ladder, block in zip(self.rungs, ladder_NR, self.blocks, strict=True):
            alpha = self.gates[rung - 1]
            if self.config.merge == "before":
                merged = merge_gated(side_NR, ladder, alpha, self.config.temperature)
                side_NR = block(merged, places)
            else:
                passed = block(side_NR, places)
                side_NR = merge_gated(passed, ladder, alpha, self.config.temperature)
        rows_ND: Tensor = self.up(self.norm(side_NR))
        return SideFeatures(rows_ND, last.layout, grid=last.grid)

    def _pooled(self, batch: FeatureBatch, names: Sequence[str]) -> list[Tensor]:
        """Maps averaged to the size of the last one."""
        *larger, last = names
        regions = find_regions({name: batch.streams[name] for name in larger}, batch.streams[last])
        pooled = []
        for name in names:
            values, positions = batch.streams[name].values, list(self.sources[name])
            if positions and name == last:
                # Picked, not stacked: autocast on a CPU joins no float16, as states are stored.
                pooled.append(values[:, positions])
            elif positions:
                means = [region_means(values[:, at], regions[name]) for at in positions]
                pooled.append(torch.stack(means, dim=1))
        return pooled


def _block(kind: BlockName, sizes: BlockSizes) -> nn.Module:
    if kind == "conv":
        return ConvBlock(sizes)
    return TransformerBlock(sizes, pre_norm=kind == "pre-norm")
