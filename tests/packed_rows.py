"""The rows of one sample in what a backbone gives."""

from __future__ import annotations

from torch import Tensor

from cache_schema import StreamBatch


def sample_of(stream: StreamBatch, sample: int) -> Tensor:
    """(T, L, D) of the sample at this place of a batch."""
    start = int(stream.layout.first_rows()[sample])
    return stream.values[start : start + int(stream.layout.lengths[sample])]
