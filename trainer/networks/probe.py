"""Networks that only read one layer, or a fixed mix of layers: the cheap baselines.

N packed rows, L layers, D width, H hidden width, E output width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from cache_schema import FeatureBatch, StreamBatch, StreamSpec

from .base import (
    IncompatibleNetworkError,
    NetworkOptions,
    RowMasks,
    SideFeatures,
    SideNetwork,
    compute_dtype,
    pick_streams,
)


class ProbeConfig(NetworkOptions):
    """The hidden states of one layer as they are: with a linear head, a linear probe."""

    name: Literal["probe"] = Field(default="probe", description="linear probe")
    stream: str | None = Field(default=None, description="stream to read; null: the last one")
    layer: int | None = Field(default=None, description="backbone layer index; null: the last")


class MLPProbeConfig(NetworkOptions):
    """One layer's hidden states through Linear, GELU, Linear."""

    name: Literal["mlp-probe"] = Field(default="mlp-probe", description="perceptron probe")
    stream: str | None = Field(default=None, description="stream to read; null: the last one")
    layer: int | None = Field(default=None, description="backbone layer index; null: the last")
    hidden: int | None = Field(default=None, gt=0, description="hidden width; null: as the input")
    width: int | None = Field(default=None, gt=0, description="output width; null: as the input")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="share of hidden values dropped")


class WeightedSumConfig(NetworkOptions):
    """One learned weight per layer, shared by all tokens: softmax, then the weighted sum."""

    name: Literal["weighted-sum"] = Field(default="weighted-sum", description="sum of layers")
    stream: str | None = Field(default=None, description="stream to read; null: the last one")


def _one_stream(network: str, name: str | None, streams: Sequence[StreamSpec]) -> StreamSpec:
    return pick_streams(network, () if name is None else (name,), streams)[-1]


def _position(network: str, stream: StreamSpec, layer: int | None) -> int:
    indices = [spec.index for spec in stream.layers]
    if layer is None:
        return len(indices) - 1
    if layer not in indices:
        raise IncompatibleNetworkError(
            f"network {network}: layer is {layer}, stream {stream.name!r} has {indices!r}. "
            "Choose one of these, or extract the layer."
        )
    return indices.index(layer)


def _features(stream: StreamBatch, rows: Tensor) -> SideFeatures:
    return SideFeatures(rows, stream.layout, grid=stream.grid)


class Probe(SideNetwork):
    """One layer, unchanged; it has no parameters, the head after it is what is trained."""

    def __init__(self, config: ProbeConfig, streams: Sequence[StreamSpec]) -> None:
        super().__init__()
        stream = _one_stream(config.name, config.stream, streams)
        self.row_stream = stream.name
        self.position = _position(config.name, stream, config.layer)
        self.out_width = stream.width

    def forward(self, batch: FeatureBatch, masks: RowMasks | None = None) -> SideFeatures:
        """(N, D) float32 hidden states of the layer."""
        del masks
        stream = batch.streams[self.row_stream]
        return _features(stream, stream.values[:, self.position].float())


class MLPProbe(SideNetwork):
    """One layer through a small perceptron, token by token."""

    def __init__(self, config: MLPProbeConfig, streams: Sequence[StreamSpec]) -> None:
        super().__init__()
        stream = _one_stream(config.name, config.stream, streams)
        self.row_stream = stream.name
        self.position = _position(config.name, stream, config.layer)
        self.out_width = config.width or stream.width
        hidden = config.hidden or stream.width
        self.hidden = nn.Linear(stream.width, hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(hidden, self.out_width)

    def forward(self, batch: FeatureBatch, masks: RowMasks | None = None) -> SideFeatures:
        """(N, E) outputs."""
        del masks
        stream = batch.streams[self.row_stream]
        rows_ND = stream.values[:, self.position].to(compute_dtype(self.hidden.weight))
        hidden_NH = self.dropout(F.gelu(self.hidden(rows_ND)))
        return _features(stream, self.output(hidden_NH))


class WeightedSum(SideNetwork):
    """A softmax-weighted sum of all layers of one stream."""

    def __init__(self, config: WeightedSumConfig, streams: Sequence[StreamSpec]) -> None:
        super().__init__()
        stream = _one_stream(config.name, config.stream, streams)
        self.row_stream = stream.name
        self.out_width = stream.width
        self.logits = nn.Parameter(torch.zeros(len(stream.layers)))

    def forward(self, batch: FeatureBatch, masks: RowMasks | None = None) -> SideFeatures:
        """(N, D) mixtures, and the same weights for every sample as `confidence`."""
        del masks
        stream = batch.streams[self.row_stream]
        weights_L = self.logits.softmax(dim=0)
        dtype = compute_dtype(self.logits)
        rows_ND = torch.einsum("nld,l->nd", stream.values.to(dtype), weights_L.to(dtype))
        confidence_BL = weights_L.detach().expand(stream.layout.num_samples, -1)
        return SideFeatures(rows_ND, stream.layout, confidence=confidence_BL, grid=stream.grid)
