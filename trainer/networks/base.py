"""What every side network takes and gives.

B samples, N packed rows (one per token, no padding), E output width, G guided layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from cache_schema import FeatureBatch, RowLayout, StreamSpec, UserError

from ..pooling import Pooling

RowMasks = Mapping[str, Tensor]
"""Stream name to (N,) bool: True for rows that others may read and that means count."""


class IncompatibleNetworkError(UserError):
    """A network cannot be built for these streams, or with this combination of options."""


class NetworkOptions(BaseModel):
    """Settings of a network: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True, eq=False)
class SideFeatures:
    """What a side network makes of a batch.

    Attributes:
        rows: (N, E) packed.
        layout: Which row belongs to which sample.
        levels: Earlier (N, E) outputs, lowest first, for auxiliary losses; empty for most.
        confidence: (B, G) weights of the guided layers, one row per sample (per frame where a
            sample has frames); None where the network has none.
        grid: (B, k) int64 shape of the positions, where they have one.
    """

    rows: Tensor
    layout: RowLayout
    levels: tuple[Tensor, ...] = ()
    confidence: Tensor | None = None
    grid: Tensor | None = None


class SideNetwork(nn.Module):
    """The trained network beside a frozen backbone.

    Attributes:
        out_width: E, numbers per output row.
        row_stream: The stream whose samples and rows the output has.
        has_token_rows: Whether there is an output row for each row of that stream.
    """

    out_width: int
    row_stream: str
    has_token_rows = True

    def forward(self, batch: FeatureBatch, masks: RowMasks | None = None) -> SideFeatures:
        """Read the hidden states of a batch.

        Args:
            batch: Hidden states in any floating dtype; they never receive a gradient.
            masks: Only for batches made from padded tensors, whose padded positions are rows
                like any other. A row that is masked out still gets an output, but no row reads
                it and no mean counts it. Packed batches need none.
        """
        raise NotImplementedError

    def pooled(self, batch: FeatureBatch, pooling: Pooling) -> Tensor:
        """(B, E): the output rows of each sample pooled, however a network comes by it."""
        features: SideFeatures = self(batch)
        pooled: Tensor = pooling(features.rows, features.layout)
        return pooled


def pick_streams(
    network: str, wanted: Sequence[str], streams: Sequence[StreamSpec]
) -> tuple[StreamSpec, ...]:
    """The streams of these names in this order; all of them, as stored, for no names.

    Raises:
        IncompatibleNetworkError: A name is not there, or is given twice.
    """
    named = {stream.name: stream for stream in streams}
    missing = [name for name in wanted if name not in named]
    if missing or len(set(wanted)) != len(wanted) or not named:
        raise IncompatibleNetworkError(
            f"network {network}: streams are {list(wanted)!r}, needed different names out of "
            f"{list(named)!r}. Set network.streams to names that the cache has."
        )
    return tuple(named[name] for name in wanted) or tuple(streams)


def check_same_rows(network: str, names: Sequence[str], batch: FeatureBatch) -> None:
    """Streams that share token positions have equally many rows.

    Raises:
        IncompatibleNetworkError: Some stream has more or fewer.
    """
    counts = [batch.streams[name].layout.num_rows for name in names]
    if len(set(counts)) > 1:
        axes = {
            name: 0 if stream.grid is None else stream.grid.shape[1]
            for name, stream in batch.streams.items()
        }
        setting = setting_for(network, axes)
        advice = f"Add --set {setting}, which is made for them, or read" if setting else "Read"
        raise IncompatibleNetworkError(
            f"network {network}: streams {list(names)!r} have {counts} rows, needed the same "
            f"positions in all. {advice} one of them: --set 'network.streams=[\"{names[-1]}\"]'."
        )


def setting_for(network: str, axes: Mapping[str, int]) -> str | None:
    """The setting with which unipt or lst reads all streams of a cache; None if none is needed.

    Args:
        network: Its name.
        axes: Each stream and how many axes its positions have; 2 are maps.
    """
    if len(axes) < 2:
        return None
    are_maps = all(count == 2 for count in axes.values())
    if network != "unipt":
        return "network.block=conv" if network == "lst" and are_maps else None
    if are_maps:
        return "network.preset=vse-image"
    is_embedding = [*axes][-1] == "embedding"
    return f"network.{'preset=clip4clip' if is_embedding else 'structure=encoder-decoder'}"


def wide(values: Tensor) -> Tensor:
    """The same numbers in float32, or wider where they are: for sums and softmaxes."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def compute_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype that matrix products run in: autocast's where it is on, else the parameter's."""
    device = parameter.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return parameter.dtype
