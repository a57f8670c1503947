"""One linear map and one normalisation for each layer: hidden states to the reduced width.

N packed rows, L stored layers, G of them read here, D backbone width, R reduced width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import compute_dtype
from .frozen_linear import FrozenLayersLinear

NormName = Literal["layer", "batch", "none"]
LAYER_NORM_EPS = 1e-5
"""torch's default, which the authors use in all side networks (golden/README.md, 3.1 to 3.15)."""


class RowBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of (N, C) rows.

    Given (N, C), torch sums the rows one after the other in float32; given (1, C, N) it sums
    pairwise, with a tenth of the error (measured on 512 rows: 4.8e-7 instead of 2.7e-6).
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's own name
        """(N, C) normalised over N."""
        return super().forward(input.T.contiguous()[None])[0].T


class LayeredNorm(nn.Module):
    """One kind of normalisation for G layers, each with a scale and a shift of its own."""

    def __init__(self, kind: NormName, num_layers: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "batch":
            self.batch = RowBatchNorm(num_layers * width)
        elif kind == "layer":
            self.weight = nn.Parameter(torch.ones(num_layers, width))
            self.bias = nn.Parameter(torch.zeros(num_layers, width))

    def forward(self, rows_NGR: Tensor) -> Tensor:
        """(N, G, R) normalised: over R for `layer`, over N for `batch`."""
        if self.kind == "layer":
            normed = F.layer_norm(rows_NGR, rows_NGR.shape[-1:], eps=LAYER_NORM_EPS)
            return torch.addcmul(self.bias.to(normed), normed, self.weight.to(normed))
        if self.kind == "batch":
            rows: Tensor = self.batch(rows_NGR.flatten(1))
            return rows.reshape(rows_NGR.shape)
        return rows_NGR


class PerLayerLinear(nn.Module):
    """Some layers of one stream, each reduced by its own linear map and norm."""

    def __init__(
        self,
        width: int,
        reduced: int,
        positions: Sequence[int],
        *,
        norm: NormName,
        bias: bool,
        activate: bool,
    ) -> None:
        super().__init__()
        self.positions = tuple(positions)
        self.activate = activate
        steps = {after - before for before, after in pairwise(self.positions)}
        first, step = self.positions[0], next(iter(steps), 1)
        # A slice is a view; a list of positions would copy the hidden states.
        is_slice = len(steps) <= 1 and step > 0
        stop = self.positions[-1] + 1
        self._picked = slice(first, stop, step) if is_slice else list(self.positions)
        self.weight = nn.Parameter(torch.empty(self.num_layers, reduced, width))
        self.bias = nn.Parameter(torch.empty(self.num_layers, reduced)) if bias else None
        self.norm = LayeredNorm(norm, self.num_layers, reduced)
        # As torch initialises nn.Linear: uniform within 1 / sqrt(inputs).
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                nn.init.uniform_(parameter, -1 / math.sqrt(width), 1 / math.sqrt(width))

    @property
    def num_layers(self) -> int:
        """G."""
        return len(self.positions)

    def forward(self, values_NLD: Tensor) -> Tensor:
        """(N, L, D) hidden states in any floating dtype as (N, G, R).

        On a CPU layer by layer, so that a layer's rows stay in cache from the linear map through
        the norm (measured at BERT-base size: 20 % faster); elsewhere all layers in one product.
        """
        if self.positions != tuple(range(values_NLD.shape[1])):
            values_NLD = values_NLD[:, self._picked]
        if not values_NLD.is_cpu or torch.compiler.is_compiling():
            return self._at_once(values_NLD)
        # Maps are read before they are reduced: then these are not the frozen states themselves.
        if values_NLD.requires_grad or compute_dtype(self.weight) != self.weight.dtype:
            return self._by_layer(values_NLD)
        has_norm = self.norm.kind == "layer"
        rows_NGR: Tensor = FrozenLayersLinear.apply(
            values_NLD,
            self.weight,
            self.bias,
            self.norm.weight if has_norm else None,
            self.norm.bias if has_norm else None,
            self.activate,
            LAYER_NORM_EPS,
        )
        return rows_NGR if has_norm else self.norm(rows_NGR)

    def _input(self, values: Tensor) -> Tensor:
        values = values.to(compute_dtype(self.weight))
        return values.relu() if self.activate else values

    def _at_once(self, values_NGD: Tensor) -> Tensor:
        values_GND = self._input(values_NGD).transpose(0, 1)
        rows_GNR = torch.bmm(values_GND, self.weight.transpose(1, 2))
        if self.bias is not None:
            rows_GNR = rows_GNR + self.bias[:, None].to(rows_GNR)
        rows_NGR: Tensor = self.norm(rows_GNR.transpose(0, 1))
        return rows_NGR

    def _by_layer(self, values_NGD: Tensor) -> Tensor:
        weights = self.weight.unbind()
        biases = [None] * self.num_layers if self.bias is None else self.bias.unbind()
        rows_NR = [
            F.linear(self._input(values), weight, bias)
            for values, weight, bias in zip(values_NGD.unbind(1), weights, biases, strict=True)
        ]
        if self.norm.kind != "layer":
            rows_NGR: Tensor = self.norm(torch.stack(rows_NR, dim=1))
            return rows_NGR
        scales, shifts = self.norm.weight.unbind(), self.norm.bias.unbind()
        normed = [
            F.layer_norm(rows, rows.shape[1:], scale, shift, LAYER_NORM_EPS)
            for rows, scale, shift in zip(rows_NR, scales, shifts, strict=True)
        ]
        return torch.stack(normed, dim=1)
