"""The authors' checkpoints, parameter counts and initial weights."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from golden_kinds import GoldenFile
from golden_kinds.networks import run, token_streams
from network_cases import stream

from cache_schema import StreamSpec
from trainer.networks import (
    LadderConfig,
    NetworkConfig,
    ReleasedCheckpointError,
    SideNetwork,
    UniPTConfig,
    build_network,
    load_released,
)
from trainer.networks.released import released_names

FOLDER = Path(__file__).parent / "golden"


def vse_text() -> tuple[GoldenFile, SideNetwork]:
    """A stored file of the authors' text network and ours of its sizes."""
    golden = GoldenFile.load(FOLDER / "vse_transformer_L4_equal.npz")
    specs, _ = token_streams(golden.hidden_states())
    return golden, build_network(UniPTConfig(width=golden.meta["embed_size"]), specs)


@pytest.mark.parametrize("prefix", ["", "side_tuning_module."])
def test_a_checkpoint_of_the_authors_gives_their_features(prefix: str) -> None:
    """In a whole model's checkpoint the side network has a prefix, and other parts around it."""
    golden, network = vse_text()
    state = {f"{prefix}{name}": value for name, value in golden.parameters().items()}
    if prefix:
        state["gpool.linear.weight"] = torch.zeros(1)

    load_released(network, state, prefix)

    _, streams = token_streams(golden.hidden_states())
    mask = torch.arange(7) < golden.tensor("lengths")[:, None]
    features = run(network, {}, streams, {"tokens": mask.flatten()})
    expected = torch.from_numpy(golden.outputs["features"]).flatten(0, 1)
    torch.testing.assert_close(features.rows, expected, rtol=1e-4, atol=1e-5)


def test_side_parameters_are_found_among_those_of_a_frozen_backbone() -> None:
    """CLIP-ViL, MDETR and LST keep theirs inside the backbone's state_dict."""
    golden = GoldenFile.load(FOLDER / "clipvil_side_L4.npz")
    specs, _ = token_streams(golden.hidden_states())
    network = build_network(UniPTConfig(preset="clip-vil"), specs)
    state = {f"encoder.{name}": value for name, value in golden.parameters().items()}

    load_released(network, state | {"encoder.layer.0.weight": torch.zeros(1)}, "encoder.")

    assert torch.equal(
        network.path.block.interaction.gate.weight, state["encoder.side_gate_layer_l.weight"]
    )


def test_a_checkpoint_that_does_not_fit_is_refused_by_name() -> None:
    """Loading half of a network would go unnoticed until its numbers are bad."""
    golden, network = vse_text()
    state = golden.parameters()
    gate = state.pop("gate_layer.weight")

    with pytest.raises(ReleasedCheckpointError, match=r"lacks \['gate_layer\.weight'\]"):
        load_released(network, state)
    with pytest.raises(ReleasedCheckpointError, match=r"unknown \['strange'\]"):
        load_released(network, state | {"gate_layer.weight": gate, "strange": gate})
    with pytest.raises(ReleasedCheckpointError, match=r"needed \(1, 8\)"):
        load_released(network, state | {"gate_layer.weight": torch.zeros(1, 9)})


@pytest.mark.parametrize(
    "config",
    [UniPTConfig(preset="paper"), UniPTConfig(confidence="static"), LadderConfig(block="pre-norm")],
)
def test_networks_that_were_never_released_say_so(config: NetworkConfig) -> None:
    """A checkpoint of another system must not be forced into them."""
    network = build_network(config, [stream("tokens", 16, 4)])

    with pytest.raises(ReleasedCheckpointError, match="preset"):
        released_names(network)


def token_stream(layers: int, width: int) -> list[StreamSpec]:
    return [stream("tokens", width, layers)]


CLIP_TEXT = [stream("text", 512, 13), stream("embedding", 512, 1)]
CLIP_IMAGE = [stream("image", 768, 13), stream("embedding", 512, 1)]
RESNEXT = [
    stream(f"stage{i}", width, 1, ("height", "width"))
    for i, width in enumerate((256, 512, 1024, 2048), start=1)
]
MDETR = [stream("encoder", 256, 7), stream("decoder", 256, 7)]


@pytest.mark.parametrize(
    ("million", "parts"),
    [
        # VTR: 9.6M in the paper, both towers.
        (
            9.58,
            [
                (UniPTConfig(preset="clip4clip", shortcut="last"), CLIP_TEXT),
                (UniPTConfig(preset="clip4clip"), CLIP_IMAGE),
            ],
        ),
        # ITR: 12.4M with the two GPO poolings of 12.7k, which the pooling tests count.
        (5.92, [(UniPTConfig(width=1024), token_stream(13, 768))]),
        (6.43, [(UniPTConfig(preset="vse-image", width=1024), RESNEXT)]),
        # VG: 0.7M with the heads.
        (0.48, [(UniPTConfig(preset="mdetr"), MDETR)]),
        # VQA: 4.74M in the authors' code, 10.7M with the answer head.
        (4.74, [(UniPTConfig(preset="clip-vil"), token_stream(13, 768))]),
        # LST on VQA: 13.4M with the answer head.
        (7.40, [(LadderConfig(), token_stream(13, 768))]),
    ],
    ids=["VTR", "ITR text", "ITR image", "VG", "VQA", "LST VQA"],
)
def test_real_sizes_have_the_parameters_of_the_authors_code(
    million: float, parts: list[tuple[NetworkConfig, list[StreamSpec]]]
) -> None:
    """golden/PAPER_VS_CODE.md, section 1.3, point 12; nothing is allocated."""
    with torch.device("meta"):
        networks = [build_network(config, streams) for config, streams in parts]

    count = sum(p.numel() for network in networks for p in network.parameters())

    assert round(count / 1e6, 2) == million


def test_initial_weights_are_those_of_the_system() -> None:
    """torch's own; normal(0, 0.02) and zero biases; Xavier by the size of one layer's matrix."""
    torch.manual_seed(0)
    streams = token_stream(5, 192)
    default, bert, xavier = (
        build_network(UniPTConfig(initialisation=kind), streams).requires_grad_(False).path
        for kind in ("torch", "bert", "xavier")
    )
    xavier_bound = math.sqrt(6 / (192 + 96))

    weights = [path.guided[0].weight for path in (default, bert, xavier)]
    assert float(weights[0].abs().max()) == pytest.approx(192**-0.5, rel=0.01)
    assert float(weights[1].std()) == pytest.approx(0.02, rel=0.02)
    assert float(weights[2].abs().max()) == pytest.approx(xavier_bound, rel=0.01)
    assert float(bert.guided[0].bias.abs().max()) == 0
    assert float(xavier.guided[0].bias.abs().max()) > 0
    for path in (default, bert, xavier):
        assert torch.equal(path.guided[0].norm.weight, torch.ones(4, 96))


def test_a_ladder_starts_half_way_between_side_and_backbone() -> None:
    """Gates begin at sigmoid(0)."""
    network = build_network(LadderConfig(), token_stream(5, 192))

    assert (network.gates / network.config.temperature).sigmoid().tolist() == [0.5] * 4
