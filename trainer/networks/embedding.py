"""UniPT for one embedding of each sample, or of each frame of a video, that reads all layers.

B samples, N packed rows, U embeddings, F frames, T tokens of a frame, G guided layers,
L stored layers, D backbone width, E output width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cache_schema import FeatureBatch, RowLayout, StreamBatch, StreamSpec

from .base import (
    IncompatibleNetworkError,
    RowMasks,
    SideFeatures,
    SideNetwork,
    check_same_rows,
    pick_streams,
)
from .blocks import ParallelPath
from .options import UniPTConfig
from .places import Places, evenly_split
from .setup import guided_layers, initialise, output_width, reduced_width

FRAMES = ("frames", "tokens")
"""Axes of videos whose frames are rows of tokens."""


class EmbeddingUniPT(SideNetwork):
    """UniPT where an embedding of the whole sample reads all layers of the other streams.

    The last stream holds the embeddings: one row per sample, or one per frame of each video; then
    every frame has the same number of tokens, stored frame after frame. The output has the rows
    of that stream.

    Where it is the only stream, the embedding is one token of its last layer, for each sample or
    frame: the last token if that is the shortcut, else the first, which is most encoders' class
    token. It reads all layers, the last one too; there is a row of output for each.
    """

    has_token_rows = False

    def __init__(self, config: UniPTConfig, streams: Sequence[StreamSpec]) -> None:
        super().__init__()
        self.preset = config.preset
        *below, anchor = pick_streams(config.name, config.streams, streams)
        self.class_token = None if below else ClassToken(anchor, last=config.shortcut == "last")
        below = below or [anchor]
        guided = guided_layers(config, below, None)
        self.embedding_stream = anchor.name
        self.guided_streams = tuple(guided)
        self.row_stream = anchor.name
        self.out_width = output_width(config, anchor)
        self.path = ParallelPath(
            config,
            anchor=(anchor.width, len(anchor.layers) - 1),
            guided=[(s.width, guided[s.name]) for s in below if s.name in guided],
            reduced=reduced_width(config, self.out_width),
            width=self.out_width,
        )
        initialise(self, config.initialisation)

    def forward(self, batch: FeatureBatch, masks: RowMasks | None = None) -> SideFeatures:
        """(U, E) rows, and (U, G) confidence."""
        embedding = batch.streams[self.embedding_stream]
        check_same_rows("unipt", self.guided_streams, batch)
        tokens = batch.streams[self.guided_streams[0]]
        mask_N = (masks or {}).get(self.guided_streams[0])
        if self.class_token is not None:
            embedding = self.class_token.of(embedding, mask_N)
        num_embeddings = embedding.layout.num_rows
        keys = tokens.layout
        if num_embeddings != tokens.layout.num_samples:
            keys = evenly_split(tokens.layout, num_embeddings)
        rows_UE, confidence_UG = self.path(
            embedding.values,
            [batch.streams[name].values for name in self.guided_streams],
            Places(_one_row_each(num_embeddings, keys.positions.device)),
            Places(keys, mask_N),
        )
        return SideFeatures(
            rows_UE, embedding.layout, confidence=confidence_UG, grid=embedding.grid
        )


class ClassToken:
    """Picks the token that stands for a whole sample, or for each frame of a video."""

    def __init__(self, stream: StreamSpec, *, last: bool) -> None:
        """Look at how a stream's rows are ordered.

        Args:
            stream: Of tokens.
            last: Whether it is the last token of a sample or frame, not the first.

        Raises:
            IncompatibleNetworkError: The rows are the cells of maps, which have no such token.
        """
        if stream.axes not in ((), FRAMES):
            raise IncompatibleNetworkError(
                f"network unipt: structure: embedding was given only the stream {stream.name!r}, "
                f"whose rows are {' x '.join(stream.axes)}, needed a stream of embeddings besides, "
                "or one of tokens. Set network.structure to maps or tokens, or add the stream of "
                "embeddings to network.streams."
            )
        self.of_frames = stream.axes == FRAMES
        self.last = last

    def of(self, tokens: StreamBatch, mask_N: Tensor | None) -> StreamBatch:
        """(U, L, D): one row per sample, or one per frame.

        Videos are told apart by their grids, which are read on the CPU and so wait for an
        accelerator.

        Raises:
            IncompatibleNetworkError: Videos have frames of different sizes.
        """
        if self.of_frames:
            return self._of_frames(tokens)
        layout = tokens.layout
        picked_B = layout.first_rows()
        if self.last:
            picked_B = picked_B + Places(layout, mask_N).last().int().argmax(dim=1)
        return StreamBatch(
            tokens.values.index_select(0, picked_B),
            _one_row_each(layout.num_samples, layout.positions.device),
        )

    def _of_frames(self, tokens: StreamBatch) -> StreamBatch:
        assert tokens.grid is not None, "streams with axes have a grid"
        lengths = sorted({*tokens.grid[:, 1].tolist()})
        if len(lengths) > 1:
            raise IncompatibleNetworkError(
                f"network unipt: frames have {', '.join(map(str, lengths))} tokens, needed equally "
                "many in all videos. Extract them at one image_size."
            )
        (length,) = lengths
        layout = tokens.layout
        frames = RowLayout(
            layout.lengths // length,
            layout.max_length // length,
            layout.positions[::length] // length,
        )
        return StreamBatch(tokens.values[length - 1 if self.last else 0 :: length], frames)


def _one_row_each(count: int, device: torch.device) -> RowLayout:
    steps = torch.arange(count, device=device)
    return RowLayout(torch.ones_like(steps), 1, steps)
