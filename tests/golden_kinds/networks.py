"""Replays of the side networks.

B samples, T padded tokens, L layers, D width, G guided layers. The files hold padded tensors and
the authors compute outputs at padded places too; here every place is a row, and those that are
padding are masked out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from cache_schema import FeatureBatch, LayerSpec, RowLayout, StreamBatch, StreamSpec
from trainer.networks import SideFeatures, SideNetwork, UniPTConfig, build_network
from trainer.networks.blocks import ParallelBlock
from trainer.networks.encoder_decoder import MemoryReading
from trainer.networks.interaction import ParallelInteraction
from trainer.networks.maps import RegionReading
from trainer.networks.released import released_names, translate

from .base import GoldenFile, Kind, Replay


def stream_spec(name: str, width: int, num_layers: int, first: int = 0) -> StreamSpec:
    """A stream of the layers first, first + 1, ..."""
    layers = tuple(
        LayerSpec(index=i, module=f"layer{i}", final_norm=None)
        for i in range(first, first + num_layers)
    )
    return StreamSpec(name=name, width=width, layers=layers)


def padded_stream(layers_BTD: Sequence[Tensor]) -> StreamBatch:
    """The (B, T, D) hidden states of some layers with every place as a row."""
    num_samples, num_tokens = layers_BTD[0].shape[:2]
    values_NLD = torch.stack(tuple(layers_BTD), dim=2).flatten(0, 1)
    return StreamBatch(values_NLD, RowLayout.from_lengths([num_tokens] * num_samples))


def token_streams(layers_BTD: Sequence[Tensor]) -> tuple[list[StreamSpec], dict[str, StreamBatch]]:
    """One stream if all layers are equally wide, else one stream for each layer."""
    widths = [layer.shape[2] for layer in layers_BTD]
    if len(set(widths)) == 1:
        return [stream_spec("tokens", widths[0], len(widths))], {
            "tokens": padded_stream(layers_BTD)
        }
    specs = [stream_spec(f"layer{i}", width, 1, i) for i, width in enumerate(widths)]
    return specs, {
        spec.name: padded_stream([layer]) for spec, layer in zip(specs, layers_BTD, strict=True)
    }


def record(network: nn.Module, kind: type[nn.Module]) -> list[Any]:
    """A list that receives what every module of this class takes and gives, in calling order."""
    calls: list[Any] = []
    for module in network.modules():
        if isinstance(module, kind):
            module.register_forward_hook(
                lambda _module, given, result: calls.append((given, result))
            )
    return calls


def run(
    network: SideNetwork,
    parameters: Mapping[str, Tensor],
    streams: dict[str, StreamBatch],
    masks: Mapping[str, Tensor] | None,
) -> SideFeatures:
    """The network with these parameters under our names in place of its own."""
    num_samples = next(iter(streams.values())).layout.num_samples
    batch = FeatureBatch(streams, torch.arange(num_samples))
    features: SideFeatures = functional_call(network, dict(parameters), (batch, masks))
    return features


def outputs_of(golden: GoldenFile, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the outputs that the file stores."""
    return {name: value for name, value in outputs.items() if name in golden.outputs}


def vse_transformer(golden: GoldenFile) -> Replay:
    """VSE-infinity text: a key mask from the lengths."""
    layers_BTD = golden.hidden_states()
    specs, streams = token_streams(layers_BTD)
    config = UniPTConfig(
        width=golden.meta["embed_size"], reduction=golden.meta["downsample_D_factor"]
    )
    lengths = golden.tensor("lengths")
    mask_BT = torch.arange(layers_BTD[0].shape[1]) < lengths[:, None]
    outputs, parameters = replay_tokens(golden, build_network(config, specs), streams, mask_BT)
    return Replay(
        outputs_of(golden, outputs | {"features": outputs["rows"], "lengths": lengths}), parameters
    )


def clipvil_side(golden: GoldenFile) -> Replay:
    """CLIP-ViL: a stored key mask with padding in the middle."""
    layers_BTD = golden.hidden_states()
    specs, streams = token_streams(layers_BTD)
    config = UniPTConfig(preset="clip-vil", reduction=golden.meta["reduction_factor"])
    mask_BT = golden.tensor("token_mask").bool()
    outputs, parameters = replay_tokens(golden, build_network(config, specs), streams, mask_BT)
    return Replay(outputs_of(golden, outputs | {"joint_feats": outputs["rows"]}), parameters)


def replay_tokens(
    golden: GoldenFile, network: SideNetwork, streams: dict[str, StreamBatch], mask_BT: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Outputs of a network over tokens, as `rows` and by the names of intermediate values."""
    calls = record(network, ParallelInteraction)
    parameters = golden.parameters()
    ours = translate(network, parameters)
    features = run(network, ours, streams, dict.fromkeys(streams, mask_BT.flatten()))
    (_, keys_NGR, _, places), mixed = calls[0]
    paths_BGTS = mixed.weights.permute(0, 3, 1, 2) + torch.eye(mask_BT.shape[1])
    outputs = {
        "rows": features.rows.unflatten(0, mask_BT.shape),
        "gate_logits": mixed.logits,
        "confidence": mixed.confidence,
        "attention_weights": paths_BGTS,
        "merged_per_layer": paths_BGTS @ places.pad(keys_NGR).transpose(1, 2),
    }
    return outputs, parameters


def clip4clip_adapter(golden: GoldenFile) -> Replay:
    """CLIP4Clip: the projected embedding reads all layers; text has a mask, images have none."""
    layers_BTD = golden.hidden_states()
    specs, streams = token_streams(layers_BTD)
    raw_B1E = golden.tensor("raw_anchor_features")
    specs.append(stream_spec("embedding", raw_B1E.shape[2], 1))
    streams["embedding"] = padded_stream([raw_B1E])
    is_text = golden.meta["modality"] == "text"
    config = UniPTConfig(
        preset="clip4clip",
        reduction=golden.meta["downsample_D_factor"],
        shortcut="last" if is_text else "first",
    )
    network = build_network(config, specs)
    calls = record(network, ParallelInteraction)
    masks = {}
    if is_text:
        masks = dict.fromkeys(streams, (golden.tensor("input_ids") != 0).flatten())
    parameters = golden.parameters()

    features = run(network, translate(network, parameters), streams, masks)

    mixed = calls[0][1]
    outputs = {
        "features": features.rows,
        "gate_logits": mixed.logits,
        "confidence": mixed.confidence,
        "attention_weights": mixed.weights.permute(0, 3, 1, 2),
    }
    return Replay(outputs_of(golden, outputs), parameters)


def map_stream(map_BCHW: Tensor) -> StreamBatch:
    """A (B, C, H, W) map as a stream of its H * W cells, row by row."""
    num_samples, _, height, width = map_BCHW.shape
    cells_NC = map_BCHW.flatten(2).transpose(1, 2).flatten(0, 1)
    layout = RowLayout.from_lengths([height * width] * num_samples)
    return StreamBatch(cells_NC[:, None], layout, torch.tensor([[height, width]] * num_samples))


def vse_cnn(golden: GoldenFile) -> Replay:
    """VSE-infinity image: maps, and BatchNorm buffers before and after."""
    maps_BCHW = golden.hidden_states()
    streams = {f"stage{i}": map_stream(hidden) for i, hidden in enumerate(maps_BCHW)}
    specs = [
        stream_spec(name, stream.width, 1).model_copy(update={"axes": ("height", "width")})
        for name, stream in streams.items()
    ]
    config = UniPTConfig(
        preset="vse-image",
        width=golden.meta["embed_size"],
        reduction=golden.meta["downsample_D_factor"],
    )
    network = build_network(config, specs).train(golden.meta["mode"] == "train")
    interactions, readings = record(network, ParallelInteraction), record(network, RegionReading)
    parameters = golden.parameters()
    ours = translate(network, parameters)

    features = run(network, ours, streams, None)

    (_, keys_NGR, _, places), mixed = interactions[0]
    keys_BTGR = places.pad(keys_NGR)
    num_samples, num_cells = keys_BTGR.shape[:2]
    outputs = {
        "features": features.rows.unflatten(0, (num_samples, num_cells)),
        "gate_logits": mixed.logits,
        "confidence": mixed.confidence,
    }
    for i, ((_, _, regions), (_, weights_PK)) in enumerate(readings):
        paths_BTS = mixed.weights[..., i] + torch.eye(num_cells)
        outputs[f"post_attention_weights.{i}"] = paths_BTS
        outputs[f"post_merged.{i}"] = paths_BTS @ keys_BTGR[:, :, i]
        size = maps_BCHW[i].shape
        weights = torch.zeros(size[0] * size[2] * size[3])
        weights[regions.cells[regions.present]] = weights_PK[regions.present].detach()
        outputs[f"pre_weights_before_bias.{i}"] = weights.view(size[0], 1, *size[2:])
    outputs |= buffers_after(network, ours)
    return Replay(outputs_of(golden, outputs), parameters)


def buffers_after(network: SideNetwork, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every parameter and buffer as it is now, by the file's names for BatchNorm's."""
    buffers = {}
    for name, theirs in released_names(network).items():
        value = ours[name]
        parts = value.view(len(theirs), -1) if value.dim() else value[None]
        for layer, their_name in enumerate(theirs):
            buffers[f"buffer_after.{their_name}"] = parts[layer].squeeze()
    return buffers


def mdetr_side(golden: GoldenFile) -> Replay:
    """MDETR: sequence-first states of encoder (from its input on) and decoder (from layer 1)."""
    encoder_LBSD = golden.tensor("encoder_hidden_states").transpose(1, 2)
    decoder_LBQD = golden.tensor("decoder_hidden_states").transpose(1, 2)
    width = encoder_LBSD.shape[3]
    specs = [
        stream_spec("encoder", width, len(encoder_LBSD)),
        stream_spec("decoder", width, len(decoder_LBQD), first=1),
    ]
    streams = {
        "encoder": padded_stream(list(encoder_LBSD)),
        "decoder": padded_stream(list(decoder_LBQD)),
    }
    config = UniPTConfig(preset="mdetr", layers=tuple(golden.meta["select_layers"]))
    network = build_network(config, specs)
    interactions, blocks = record(network, ParallelInteraction), record(network, ParallelBlock)
    memory = record(network, MemoryReading)
    readable_BS = ~golden.tensor("padding_mask")
    parameters = golden.parameters()

    features = run(
        network, translate(network, parameters), streams, {"encoder": readable_BS.flatten()}
    )

    (_, encoder), (_, decoder) = interactions
    num_queries, num_text = decoder_LBQD.shape[2], golden.meta["num_text_tokens"]
    hs = torch.stack([*features.levels, features.rows])
    outputs = {
        "side_img_memory": blocks[0][1][0].unflatten(0, readable_BS.shape),
        "hs": hs.unflatten(1, (-1, num_queries)),
        "encoder_gate_logits": encoder.logits,
        "decoder_gate_logits": decoder.logits,
        "encoder_confidence": encoder.confidence,
        "decoder_confidence": decoder.confidence,
        "text_memory": encoder_LBSD[-1, :, -num_text:].transpose(0, 1),
        "encoder_attention": encoder.weights.permute(0, 3, 1, 2) + torch.eye(readable_BS.shape[1]),
        "decoder_pre_attention": memory[0][1][1].transpose(1, 2),
        "decoder_post_attention": decoder.weights.permute(0, 3, 1, 2) + torch.eye(num_queries),
    }
    return Replay(outputs_of(golden, outputs), parameters)


KINDS: dict[str, Kind] = {
    "vse_transformer": vse_transformer,
    "vse_cnn": vse_cnn,
    "clip4clip_adapter": clip4clip_adapter,
    "clipvil_side": clipvil_side,
    "mdetr_side": mdetr_side,
}
