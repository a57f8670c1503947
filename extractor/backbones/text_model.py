"""A frozen text model: token ids in, streams of packed hidden states out.

B samples, T tokens of the longest, N packed rows, L layers, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from cache_schema import (
    BackboneSpec,
    FeatureBatch,
    Ragged,
    RowLayout,
    StreamBatch,
    StreamSpec,
)

from .base import Measured, Prepared, Sample
from .layers import choose_layers
from .packing import pack_layers, pad_ids
from .tokenizer import Tokens

TOKENS, TOKEN_IDS, SEGMENT_IDS = "tokens", "token_ids", "segment_ids"


@dataclass(frozen=True, eq=False)
class Padded:
    """One ragged input as a model takes it.

    Attributes:
        ids: (B, T) int64.
        mask: (B, T) int64, 1 where a token is real; None where all are. A mask of ones costs time
            and, on a GPU, a wait for the device.
    """

    ids: Tensor
    mask: Tensor | None


class TextForward(Protocol):
    """Runs a model on padded inputs: stream name to all its layers, each (B, T, D)."""

    def __call__(self, inputs: Mapping[str, Padded]) -> Mapping[str, Sequence[Tensor]]: ...


class Encode(Protocol):
    """Samples as the model's ragged inputs, with the rows of each stream."""

    def __call__(self, samples: Sequence[Sample]) -> Encoded: ...


@dataclass(frozen=True, eq=False)
class Encoded:
    """Samples as token ids.

    Attributes:
        inputs: Name to ragged ids.
        lengths: Stream name to (B,) int64, the rows of each sample.
        truncated: (B,) bool, whether the sample was cut.
    """

    inputs: Mapping[str, Ragged]
    lengths: Mapping[str, np.ndarray]
    truncated: np.ndarray

    @classmethod
    def of_tokens(cls, tokens: Tokens) -> Encoded:
        """One row for each token."""
        return cls(tokens.inputs, {TOKENS: tokens.lengths}, tokens.truncated)


class TextModel:
    """Reads a text, or a pair of texts, for each sample."""

    def __init__(
        self,
        forward: TextForward,
        encode: Encode,
        *,
        spec: BackboneSpec,
        whole: Sequence[StreamSpec],
        chosen: Literal["all"] | tuple[int, ...],
        identity: Mapping[str, JsonValue],
        stored_inputs: tuple[str, ...],
        pad_id: int,
        device: torch.device,
    ) -> None:
        """Keep some layers of what a model gives.

        Raises:
            BackboneError: No stream has one of the chosen layers.
        """
        self.spec = spec
        self.streams = choose_layers(spec.name, whole, chosen)
        self.identity = {**identity, **layer_identity(self.streams)}
        self.stored_inputs = stored_inputs
        self.device = device
        self._forward = forward
        self._encode = encode
        self._pad_id = pad_id
        layers = {stream.name: stream.layers for stream in whole}
        self._kept = {s.name: [layers[s.name].index(x) for x in s.layers] for s in self.streams}

    def measure(self, samples: Sequence[Sample]) -> Measured:
        """Tokenise, and count."""
        prepared = self.prepare(samples)
        stored = (prepared.inputs[name] for name in self.stored_inputs)
        num_bytes = sum(ids.values.nbytes for ids in stored if isinstance(ids, Ragged))
        return Measured(prepared.lengths, num_bytes, prepared.truncated, prepared.failures)

    def prepare(self, samples: Sequence[Sample]) -> Prepared:
        """Tokenise samples with a `text` and maybe a `text_pair`; no padding."""
        encoded = self._encode(samples)
        kept = {stream.name: encoded.lengths[stream.name] for stream in self.streams}
        empty = np.flatnonzero(np.min(list(encoded.lengths.values()), axis=0) == 0)
        for lengths in kept.values():
            lengths[empty] = 0
        return Prepared(
            encoded.inputs,
            kept,
            encoded.truncated,
            failures={int(at): "the text has no tokens" for at in empty},
        )

    @torch.no_grad()
    def run(
        self,
        prepared: Prepared,
        indices: Sequence[int] | np.ndarray,
        dtype: torch.dtype | None = None,
    ) -> FeatureBatch:
        """The hidden states of these samples, packed (N, L, D)."""
        rows = np.asarray(indices, dtype=np.int64)
        inputs = {name: self._pad(prepared.inputs[name], rows) for name in prepared.inputs}
        layouts = {
            stream.name: RowLayout.from_lengths(prepared.lengths[stream.name][rows]).to(
                self.device, non_blocking=True
            )
            for stream in self.streams
        }
        states = self._forward(inputs)
        streams = {}
        for name, layout in layouts.items():
            values = pack_layers([states[name][layer] for layer in self._kept[name]], layout, dtype)
            streams[name] = StreamBatch(values, layout)
        return FeatureBatch(streams, torch.from_numpy(rows).to(self.device))

    def _pad(self, column: Ragged | np.ndarray, rows: np.ndarray) -> Padded:
        assert isinstance(column, Ragged)
        chosen = column.take(rows)
        layout = RowLayout.from_lengths(chosen.lengths)
        fill = self._pad_id if column.values.dtype == np.int32 else 0  # segments begin at 0
        ids = pad_ids(chosen, layout, fill).to(self.device, non_blocking=True)
        mask = None if layout.is_dense else layout.mask().long().to(self.device, non_blocking=True)
        return Padded(ids, mask)


def layer_identity(streams: Sequence[StreamSpec]) -> dict[str, JsonValue]:
    """Which layers are stored, and which have the final norm; by stream where there are several."""
    layers: dict[str, JsonValue] = {s.name: [x.index for x in s.layers] for s in streams}
    norms: dict[str, JsonValue] = {s.name: [x.final_norm for x in s.layers] for s in streams}
    if list(layers) == [TOKENS]:
        return {"layers": layers[TOKENS], "final_norms": norms[TOKENS]}
    return {"layers": layers, "final_norms": norms}
