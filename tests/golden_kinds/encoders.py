"""Replays whole VSE-infinity encoders: UniPT, then GPO, then a vector of length 1."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from cache_schema import FeatureBatch, RowLayout, StreamBatch
from trainer.heads import scale_to_unit
from trainer.networks import SideNetwork, UniPTConfig, build_network
from trainer.networks.released import released_names, translate
from trainer.pooling import GeneralizedPooling, select_rows

from .base import GoldenFile, Kind, Replay
from .networks import map_stream, stream_spec

SIDE = "side_tuning_module."


class Encoder(nn.Module):
    """Hidden states to one unit vector for each sample; some rows may be dropped in between."""

    def __init__(self, network: SideNetwork, pooling: GeneralizedPooling) -> None:
        super().__init__()
        self.network, self.pooling = network, pooling

    def forward(self, batch: FeatureBatch, kept_N: Tensor | None = None) -> Tensor:
        features = self.network(batch)
        rows, layout = features.rows, features.layout
        if kept_N is not None:
            rows, layout = select_rows(rows, layout, kept_N)
        return scale_to_unit(self.pooling(rows, layout))


def replay_text(golden: GoldenFile) -> Replay:
    layers_BTD = golden.hidden_states()
    layout = RowLayout.from_lengths(golden.inputs["lengths"])
    values_NLD = layout.pack(torch.stack(layers_BTD, dim=2)[:, : layout.max_length])
    spec = stream_spec("tokens", values_NLD.shape[2], len(layers_BTD))
    network = build_network(
        UniPTConfig(
            preset="vse-text",
            width=golden.meta["embed_size"],
            reduction=golden.meta["downsample_D_factor"],
        ),
        [spec],
    )
    streams = {"tokens": StreamBatch(values_NLD, layout)}
    outputs, parameters = _embed(golden, network, "gpool.", streams, None)
    num_padded = layers_BTD[0].shape[1] - layout.max_length
    outputs["bert_attention_mask"] = F.pad(layout.mask().float(), (0, num_padded))
    return Replay(outputs, parameters)


def replay_image(golden: GoldenFile) -> Replay:
    streams = {f"stage{i}": map_stream(hidden) for i, hidden in enumerate(golden.hidden_states())}
    specs = [
        stream_spec(name, stream.width, 1).model_copy(update={"axes": ("height", "width")})
        for name, stream in streams.items()
    ]
    network = build_network(
        UniPTConfig(
            preset="vse-image",
            width=golden.meta["embed_size"],
            reduction=golden.meta["downsample_D_factor"],
        ),
        specs,
    ).train(golden.meta["mode"] == "train")
    kept_N = None
    if "kept_grid_mask" in golden.outputs:
        kept_N = torch.from_numpy(golden.outputs["kept_grid_mask"]).flatten().bool()
    outputs, parameters = _embed(golden, network, "image_encoder.", streams, kept_N)
    return Replay(
        outputs, parameters, skipped={"kept_grid_mask": "the draw of the original, an input here"}
    )


def _embed(
    golden: GoldenFile,
    network: SideNetwork,
    pooling_prefix: str,
    streams: Mapping[str, StreamBatch],
    kept_N: Tensor | None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The embedding, BatchNorm buffers after it, and the leaves under the authors' names."""
    parameters = golden.parameters()
    of_network = translate(network, parameters, SIDE)
    ours = {f"network.{name}": value for name, value in of_network.items()}
    for name, value in parameters.items():
        if name.startswith(pooling_prefix):
            ours[f"pooling.{name.removeprefix(pooling_prefix)}"] = value
    num_samples = next(iter(streams.values())).layout.num_samples
    batch = FeatureBatch(streams, torch.arange(num_samples))
    encoder = Encoder(network, GeneralizedPooling())
    outputs = {"embedding": functional_call(encoder, ours, (batch, kept_N))}
    for name, theirs in released_names(network).items():
        for layer, their_name in enumerate(theirs):
            value = of_network[name]
            parts = value.view(len(theirs), -1) if value.dim() else value[None]
            outputs[f"buffer_after.{SIDE}{their_name}"] = parts[layer].squeeze()
    return {name: value for name, value in outputs.items() if name in golden.outputs}, parameters


KINDS: dict[str, Kind] = {"vse_text_encoder": replay_text, "vse_image_encoder": replay_image}
