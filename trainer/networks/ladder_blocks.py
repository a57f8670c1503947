"""One layer of the ladder: the backbone's own kind of layer at the reduced width.

B samples, T tokens of the longest, N packed rows, R side width, H heads of width C.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .per_layer import RowBatchNorm
from .places import Places

BlockName = Literal["post-norm", "pre-norm", "conv"]
ActivationName = Literal["gelu", "quick-gelu", "relu"]
LAYER_NORM_EPS = 1e-12
"""As in BERT and ViT, whose layers the side blocks are (golden/README.md, 3.19)."""


def quick_gelu(values: Tensor) -> Tensor:
    """CLIP's activation: x * sigmoid(1.702 x)."""
    return values * torch.sigmoid(1.702 * values)


ACTIVATIONS: dict[ActivationName, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "quick-gelu": quick_gelu,
    "relu": F.relu,
}


@dataclass(frozen=True)
class BlockSizes:
    """How large a side block is.

    Attributes:
        width: R.
        heads: H; unused by `conv`.
        expansion: Hidden width of the perceptron over R; for `conv`, R over the inner width.
        dropout: Share of attention weights and of both sub-layers' outputs dropped.
        activation: Between the two maps of the perceptron.
        causal: Whether a token reads only those up to itself.
    """

    width: int
    heads: int
    expansion: int
    dropout: float
    activation: ActivationName
    causal: bool


class Attention(nn.Module):
    """Softmax self-attention over packed rows, with its output projection."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.causal = sizes.causal
        self.dropout = sizes.dropout
        self.query_key_value = nn.Linear(sizes.width, 3 * sizes.width)
        self.output = nn.Linear(sizes.width, sizes.width)

    def forward(self, rows_NR: Tensor, places: Places) -> Tensor:
        """(N, R)."""
        joint_BT = places.pad(self.query_key_value(rows_NR))
        query, key, value = joint_BT.view(*joint_BT.shape[:2], 3, self.heads, -1).permute(
            2, 0, 3, 1, 4
        )
        read_BHTC = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=self._readable(places),
            dropout_p=self.dropout if self.training else 0.0,
        )
        rows: Tensor = self.output(places.pack(read_BHTC.transpose(1, 2).flatten(2)))
        return rows

    def _readable(self, places: Places) -> Tensor:
        """(B, 1, 1 or T, T) bool: which keys each query may read."""
        readable = places.readable()[:, None, None]
        if self.causal:
            num_tokens = readable.shape[-1]
            readable = readable & readable.new_ones(num_tokens, num_tokens).tril()
        return readable


class Perceptron(nn.Module):
    """Linear, activation, Linear."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.hidden = nn.Linear(sizes.width, sizes.expansion * sizes.width)
        self.output = nn.Linear(sizes.expansion * sizes.width, sizes.width)
        self.activation = sizes.activation

    def forward(self, rows_NR: Tensor) -> Tensor:
        """(N, R)."""
        rows: Tensor = self.output(ACTIVATIONS[self.activation](self.hidden(rows_NR)))
        return rows


class TransformerBlock(nn.Module):
    """A layer of BERT (norms after each sum) or of ViT (norms before each sub-layer)."""

    def __init__(self, sizes: BlockSizes, *, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.attention = Attention(sizes)
        self.attention_norm = nn.LayerNorm(sizes.width, eps=LAYER_NORM_EPS)
        self.perceptron = Perceptron(sizes)
        self.perceptron_norm = nn.LayerNorm(sizes.width, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, rows_NR: Tensor, places: Places) -> Tensor:
        """(N, R)."""
        if self.pre_norm:
            read_NR = self.attention(self.attention_norm(rows_NR), places)
            rows_NR = rows_NR + self.dropout(read_NR)
            changed_NR: Tensor = self.dropout(self.perceptron(self.perceptron_norm(rows_NR)))
            return rows_NR + changed_NR
        read_NR = self.attention(rows_NR, places)
        rows_NR = self.attention_norm(rows_NR + self.dropout(read_NR))
        rows: Tensor = self.perceptron_norm(rows_NR + self.dropout(self.perceptron(rows_NR)))
        return rows


@dataclass(frozen=True, eq=False)
class MapPlaces:
    """Where the packed cells of maps sit in a padded batch of maps.

    Attributes:
        cells: (N,) int64 into the flattened (B, height, width).
        shape: B, and height and width of the largest map.
    """

    cells: Tensor
    shape: tuple[int, int, int]

    def to_maps(self, cells_NR: Tensor) -> Tensor:
        """(N, R) as (B, R, height, width), zeros outside of each map."""
        num_samples, height, width = self.shape
        flat = cells_NR.new_zeros(num_samples * height * width, cells_NR.shape[1])
        padded = flat.index_copy(0, self.cells, cells_NR)
        return padded.view(num_samples, height, width, -1).permute(0, 3, 1, 2)

    def to_cells(self, maps_BRHW: Tensor) -> Tensor:
        """(B, R, height, width) as (N, R)."""
        return maps_BRHW.permute(0, 2, 3, 1).flatten(0, 2).index_select(0, self.cells)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch leaves it unannotated
def place_maps(grid_B2: Tensor) -> MapPlaces:
    """Where the cells of maps of these (height, width) sit, row by row, map after map."""
    sizes = grid_B2.tolist()
    height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
    cells = [
        (sample * height + torch.arange(rows)[:, None]) * width + torch.arange(columns)
        for sample, (rows, columns) in enumerate(sizes)
    ]
    packed = torch.cat([part.flatten() for part in cells])
    return MapPlaces(packed.to(grid_B2.device), (len(sizes), height, width))


class ConvBlock(nn.Module):
    """A bottleneck layer of a ResNet: 1 x 1 down, 3 x 3, 1 x 1 up, and a residual."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        inner = max(1, sizes.width // sizes.expansion)
        self.down = nn.Linear(sizes.width, inner, bias=False)
        self.down_norm = RowBatchNorm(inner)
        self.spatial = nn.Conv2d(inner, inner, 3, padding=1, bias=False)
        self.spatial_norm = RowBatchNorm(inner)
        self.up = nn.Linear(inner, sizes.width, bias=False)
        self.up_norm = RowBatchNorm(sizes.width)

    def forward(self, cells_NR: Tensor, places: MapPlaces) -> Tensor:
        """(N, R)."""
        inner = self.down_norm(self.down(cells_NR)).relu()
        inner = places.to_cells(self.spatial(places.to_maps(inner)))
        inner = self.spatial_norm(inner).relu()
        added_NR: Tensor = self.up_norm(self.up(inner))
        return (cells_NR + added_NR).relu()
