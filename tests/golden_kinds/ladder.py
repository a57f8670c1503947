"""Replays of ladder side-tuning.

B samples, T padded tokens, L layers, D width.
"""

from __future__ import annotations

import json

import torch

from trainer.networks import LadderConfig, build_network
from trainer.networks.ladder import merge_gated
from trainer.networks.ladder_blocks import TransformerBlock
from trainer.networks.released import translate

from .base import GoldenFile, Kind, Replay
from .networks import outputs_of, record, run, token_streams


def lst_gate(golden: GoldenFile) -> Replay:
    """The gated sum alone, one gate for each of five layers."""
    alpha, side = golden.tensor("alpha"), golden.tensor("side")
    ladder = golden.tensor("backbone_downsampled")
    temperature = golden.meta["gate_T"]
    merged = [merge_gated(*layer, temperature) for layer in zip(side, ladder, alpha, strict=True)]
    outputs = {"merged": torch.stack(merged), "gate": (alpha / temperature).sigmoid()}
    return Replay(outputs, inputs={"alpha": alpha, "side": side, "backbone_downsampled": ladder})


def lst_side(golden: GoldenFile) -> Replay:
    """LST in CLIP-ViL, in eval mode: its dropout has no counterpart in the file."""
    layers_BTD = golden.hidden_states()
    specs, streams = token_streams(layers_BTD)
    kept = json.loads(golden.meta["side_layers"] or "[]")
    config = LadderConfig(
        layers=tuple(block + 1 for block in kept),
        reduction=golden.meta["reduction_factor"],
        heads=golden.meta["side_heads"],
        expansion=golden.meta["side_intermediate"] // golden.meta["side_hidden"],
        temperature=golden.meta["gate_T"],
        merge="after" if golden.meta["add_residual_after"] else "before",
    )
    network = build_network(config, specs).eval()
    calls = record(network, TransformerBlock)
    mask_BT = golden.tensor("token_mask").bool()
    parameters = golden.parameters()
    ours = translate(network, parameters)

    features = run(network, ours, streams, {"tokens": mask_BT.flatten()})

    outputs = {
        "joint_feats": features.rows.unflatten(0, mask_BT.shape),
        "gates": (ours["gates"] / golden.meta["gate_T"]).sigmoid(),
        "side_block_inputs": torch.stack([given[0] for given, _ in calls]),
        "side_block_outputs": torch.stack([result for _, result in calls]),
    }
    for name in ("side_block_inputs", "side_block_outputs"):
        outputs[name] = outputs[name].unflatten(1, mask_BT.shape)
    return Replay(outputs_of(golden, outputs), parameters)


KINDS: dict[str, Kind] = {"lst_gate": lst_gate, "lst_side": lst_side}
