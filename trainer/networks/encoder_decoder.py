"""UniPT for an encoder and a decoder that reads what the side network made of the encoder.

B samples, M packed encoder rows, N packed decoder rows (queries), S and Q the longest of each,
X = Q * G reading queries, G guided layers, L stored layers, R reduced width, E output width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cache_schema import FeatureBatch, StreamSpec

from .base import IncompatibleNetworkError, RowMasks, SideFeatures, SideNetwork, pick_streams
from .blocks import ParallelBlock, Upsample, per_layer_linear
from .interaction import mix_keys, normalise_scores, score_keys
from .options import UniPTConfig
from .per_layer import PerLayerLinear
from .places import Places
from .setup import guided_layers, initialise, output_width, reduced_width


class MemoryReading(nn.Module):
    """Every guided decoder layer reads the encoder's side memory and adds what it found."""

    def __init__(self, config: UniPTConfig, num_layers: int, reduced: int) -> None:
        super().__init__()
        self.config = config
        self.output = PerLayerLinear(
            reduced,
            reduced,
            range(num_layers),
            norm=config.norm,
            bias=config.bias,
            activate=False,
        )

    def forward(
        self, guided_NGR: Tensor, memory_MR: Tensor, queries: Places, keys: Places
    ) -> tuple[Tensor, Tensor]:
        """(N, G, R) guided layers with what they read, and the (B, Q, G, S) weights."""
        guided_BQGR = queries.pad(guided_NGR)
        memory_BS1R = keys.pad(memory_MR)[:, :, None]
        scores_BXS1 = score_keys(guided_BQGR.flatten(1, 2), memory_BS1R)
        if keys.mask is not None:
            scores_BXS1 = scores_BXS1 * keys.readable()[:, None, :, None]
        weights_BXS1 = normalise_scores(scores_BXS1, 2, self.config.eps, self.config.eps_rule)
        read_BQGR = mix_keys(weights_BXS1, memory_BS1R).view_as(guided_BQGR)
        rows_NGR = guided_NGR + self.output(queries.pack(read_BQGR))
        return rows_NGR, weights_BXS1.view(*guided_BQGR.shape[:3], -1)


class SideStack(nn.Module):
    """Reductions and block of one of the two streams, at the reduced width throughout."""

    def __init__(self, config: UniPTConfig, stream: StreamSpec, reduced: int, hidden: int) -> None:
        super().__init__()
        positions = guided_layers(config, [stream], stream)[stream.name]
        last = len(stream.layers) - 1
        self.num_layers = len(positions)
        self.anchor = per_layer_linear(config, stream.width, reduced, (last,))
        self.guided = per_layer_linear(config, stream.width, reduced, positions)
        self.block = ParallelBlock(config, self.num_layers, reduced, hidden)


class EncoderDecoderUniPT(SideNetwork):
    """UniPT for two streams: the encoder's side memory, read by the decoder's layers.

    The memory stays at the reduced width. The guided decoder layers, after they read it, are
    given too, as `levels` for auxiliary losses; the decoder's anchor reads only them.
    """

    def __init__(self, config: UniPTConfig, streams: Sequence[StreamSpec]) -> None:
        super().__init__()
        self.preset = config.preset
        chosen = pick_streams(config.name, config.streams, streams)
        if len(chosen) != 2:
            raise IncompatibleNetworkError(
                f"network unipt: streams are {[s.name for s in chosen]!r}, structure: "
                "encoder-decoder needed two, the encoder and then the decoder. Set "
                "network.streams, or choose another network.structure."
            )
        encoder, decoder = chosen
        self.encoder_stream, self.decoder_stream = encoder.name, decoder.name
        self.row_stream = decoder.name
        self.out_width = output_width(config, decoder)
        reduced = reduced_width(config, self.out_width)
        self.encoder = SideStack(config, encoder, reduced, self.out_width)
        self.decoder = SideStack(config, decoder, reduced, self.out_width)
        self.memory = MemoryReading(config, self.decoder.num_layers, reduced)
        self.upsample = Upsample(config, reduced, self.out_width)
        initialise(self, config.initialisation)

    def forward(self, batch: FeatureBatch, masks: RowMasks | None = None) -> SideFeatures:
        """(N, E) rows of the decoder, its guided layers as levels, and (B, G) confidence."""
        masks = masks or {}
        encoder = batch.streams[self.encoder_stream]
        decoder = batch.streams[self.decoder_stream]
        keys = Places(encoder.layout, masks.get(self.encoder_stream))
        queries = Places(decoder.layout, masks.get(self.decoder_stream))

        anchor_MR = self.encoder.anchor(encoder.values).squeeze(1)
        guided_MGR = self.encoder.guided(encoder.values)
        memory_MR, _ = self.encoder.block(anchor_MR, guided_MGR, keys, keys)

        anchor_NR = self.decoder.anchor(decoder.values).squeeze(1)
        guided_NGR = self.decoder.guided(decoder.values)
        guided_NGR, _ = self.memory(guided_NGR, memory_MR, queries, keys)
        rows_NR, confidence_BG = self.decoder.block(anchor_NR, guided_NGR, queries, queries)

        levels = self.upsample(torch.cat([guided_NGR, rows_NR[:, None]], dim=1)).unbind(1)
        return SideFeatures(
            levels[-1], decoder.layout, tuple(levels[:-1]), confidence_BG, decoder.grid
        )
