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
from trainer.networks.interaction import ParallelInteraction
from trainer.networks.released import translate

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
    """The network with the file's parameters, so that gradients arrive under their names."""
    num_samples = next(iter(streams.values())).layout.num_samples
    batch = FeatureBatch(streams, torch.arange(num_samples))
    features: SideFeatures = functional_call(
        network, translate(network, parameters), (batch, masks)
    )
    return features


def vse_transformer(golden: GoldenFile) -> Replay:
    layers_BTD = golden.hidden_states()
    specs, streams = token_streams(layers_BTD)
    config = UniPTConfig(
        width=golden.meta["embed_size"], reduction=golden.meta["downsample_D_factor"]
    )
    network = build_network(config, specs)
    calls = record(network, ParallelInteraction)
    lengths = golden.tensor("lengths")
    num_tokens = layers_BTD[0].shape[1]
    mask_BT = torch.arange(num_tokens) < lengths[:, None]
    parameters = golden.parameters()

    features = run(network, parameters, streams, dict.fromkeys(streams, mask_BT.flatten()))

    (_, keys_BTGR, *_), mixed = calls[0]
    paths_BGTS = mixed.weights.permute(0, 3, 1, 2) + torch.eye(num_tokens)
    outputs = {
        "features": features.rows.unflatten(0, mask_BT.shape),
        "lengths": lengths,
        "gate_logits": mixed.logits,
        "confidence": mixed.confidence,
        "attention_weights": paths_BGTS,
        "merged_per_layer": paths_BGTS @ keys_BTGR.transpose(1, 2),
    }
    return Replay({k: v for k, v in outputs.items() if k in golden.outputs}, parameters)


KINDS: dict[str, Kind] = {"vse_transformer": vse_transformer}
