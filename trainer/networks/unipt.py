"""UniPT for layers that share token positions, and for a projected embedding that reads them.

B samples, N packed rows, G guided layers, R reduced width, E output width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cache_schema import FeatureBatch, StreamBatch, StreamSpec

from .base import IncompatibleNetworkError, RowMasks, SideFeatures, SideNetwork, pick_streams
from .blocks import ParallelBlock, Upsample, reduced_width
from .options import UniPTConfig
from .places import Places
from .reduction import LayerReduction


def initialise(network: nn.Module, config: UniPTConfig) -> None:
    """Set the weights as the system's authors do; torch's defaults are there already.

    Source: golden/PAPER_VS_CODE.md, "Initialisation of the side parameters".
    """
    if config.initialisation == "torch":
        return
    for name, parameter in network.named_parameters():
        if name.endswith("bias") and config.initialisation == "bert" and "norm" not in name:
            nn.init.zeros_(parameter)
        elif name.endswith("weight") and "norm" not in name:
            matrices = parameter.unbind() if parameter.dim() == 3 else (parameter,)
            for matrix in matrices:
                if config.initialisation == "bert":
                    nn.init.normal_(matrix, std=0.02)
                else:
                    nn.init.xavier_uniform_(matrix)


def guided_positions(
    config: UniPTConfig, stream: StreamSpec, *, holds_anchor: bool
) -> tuple[int, ...]:
    """Where the guided layers of a stream are stored.

    Raises:
        IncompatibleNetworkError: A wanted layer is not stored, or none is left.
    """
    layers = stream.layers[:-1] if holds_anchor else stream.layers
    indices = [layer.index for layer in layers]
    missing = [layer for layer in config.layers if layer not in indices]
    if missing or not indices:
        raise IncompatibleNetworkError(
            f"network unipt: stream {stream.name!r} has the layers {indices!r} below its anchor, "
            f"needed {list(config.layers) or 'at least one'!r}. Set network.layers to some of "
            "them, or extract more layers."
        )
    return tuple(indices.index(layer) for layer in config.layers) or tuple(range(len(indices)))


def layer_reduction(
    config: UniPTConfig, width: int, reduced: int, positions: Sequence[int]
) -> LayerReduction:
    """A reduction of these stored layers with the configured norm, bias and activation."""
    return LayerReduction(
        width,
        reduced,
        positions,
        norm=config.norm,
        bias=config.bias,
        activate=config.activate_input,
    )


def check_residual(config: UniPTConfig, anchor: StreamSpec, out_width: int) -> None:
    """A residual on the anchor itself needs an output as wide as it.

    Raises:
        IncompatibleNetworkError: It is not.
    """
    if config.residual == "anchor" and out_width != anchor.width:
        raise IncompatibleNetworkError(
            f"network unipt: width is {out_width}, residual: anchor needed {anchor.width}, the "
            f"width of stream {anchor.name!r}. Leave network.width at null."
        )


class TokenUniPT(SideNetwork):
    """UniPT where all streams share the token positions of the last one."""

    def __init__(self, config: UniPTConfig, streams: Sequence[StreamSpec]) -> None:
        super().__init__()
        chosen = pick_streams(config.name, config.streams, streams)
        anchor = chosen[-1]
        self.streams = tuple(stream.name for stream in chosen)
        self.out_width = config.width or anchor.width
        self.full_residual = config.residual == "anchor"
        check_residual(config, anchor, self.out_width)
        reduced = reduced_width(config, self.out_width)
        self.anchor = layer_reduction(config, anchor.width, reduced, (len(anchor.layers) - 1,))
        parts: dict[str, LayerReduction] = {}
        for stream in chosen:
            if stream is anchor and len(stream.layers) == 1 and len(chosen) > 1:
                continue
            positions = guided_positions(config, stream, holds_anchor=stream is anchor)
            parts[stream.name] = layer_reduction(config, stream.width, reduced, positions)
        self.guided_streams = tuple(parts)
        self.guided = nn.ModuleList(parts.values())
        num_layers = sum(len(part.positions) for part in parts.values())
        self.block = ParallelBlock(config, num_layers, reduced, self.out_width)
        self.upsample = Upsample(config, reduced, self.out_width)
        initialise(self, config)

    def reductions(self) -> list[LayerReduction]:
        """The reductions of the guided layers, one for each stream that has any."""
        return [part for part in self.guided if isinstance(part, LayerReduction)]

    def forward(self, batch: FeatureBatch, masks: RowMasks | None = None) -> SideFeatures:
        """(N, E) rows at the token positions, and (B, G) confidence."""
        streams = [batch.streams[name] for name in self.streams]
        anchor = streams[-1]
        check_same_rows(self.streams, streams)
        places = Places(anchor.layout, None if masks is None else masks[self.streams[-1]])
        anchor_NR = self.anchor(anchor.values).squeeze(1)
        parts = [
            reduce(batch.streams[name].values)
            for name, reduce in zip(self.guided_streams, self.reductions(), strict=True)
        ]
        guided_NGR = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        rows_NR, confidence_BG = self.block(anchor_NR, guided_NGR, places, places)
        rows_NE: Tensor = self.upsample(rows_NR)
        if self.full_residual:
            rows_NE = rows_NE + anchor.values[:, -1].to(rows_NE)
        return SideFeatures(rows_NE, anchor.layout, confidence=confidence_BG, grid=anchor.grid)


def check_same_rows(names: Sequence[str], streams: Sequence[StreamBatch]) -> None:
    """All streams need as many rows as the last one.

    Raises:
        IncompatibleNetworkError: Some stream has more or fewer.
    """
    counts = [stream.layout.num_rows for stream in streams]
    if len(set(counts)) > 1:
        raise IncompatibleNetworkError(
            f"network unipt: streams {list(names)!r} have {counts} rows, structure: tokens needed "
            "the same positions in all. Choose network.streams that share positions, or another "
            "network.structure."
        )
