"""The authors' parameter names and ours, so that their checkpoints load.

Ours stack the same parameter of several layers into one tensor, in stored order, and write 1 x 1
convolutions as the linear maps they are. docs/networks.md has the table in words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cache_schema import UserError

from .base import SideNetwork
from .embedding import EmbeddingUniPT
from .encoder_decoder import EncoderDecoderUniPT
from .ladder import Ladder
from .maps import MapUniPT
from .unipt import TokenUniPT

Modules = dict[str, Sequence[str]]
"""Our module (or single parameter) to the authors' modules (parameters) that it stacks."""


class ReleasedCheckpointError(UserError):
    """A checkpoint does not have the parameters that this network has."""


def load_released(network: SideNetwork, state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Load a checkpoint of the authors' into a network built like theirs.

    Args:
        network: From `build_network`, with the preset of the checkpoint's system.
        state: The state_dict they saved.
        prefix: Where the side network sits in it, such as `side_tuning_module.`. Names elsewhere
            are ignored; names under it must be exactly those of the authors' side module (in the
            systems that keep it inside the backbone: those that begin with `side_`).

    Raises:
        ReleasedCheckpointError: A parameter is missing, has another shape, or is not ours.
    """
    network.load_state_dict(translate(network, state, prefix))


def translate(
    network: SideNetwork, state: Mapping[str, Tensor], prefix: str = ""
) -> dict[str, Tensor]:
    """The authors' parameters under our names and in our shapes; gradients flow through.

    Raises:
        ReleasedCheckpointError: A parameter is missing, has another shape, or is not ours.
    """
    table = released_names(network)
    used = {name for names in table.values() for name in names}
    inside_backbone = all(name.startswith("side_") for name in used)
    theirs = {
        name.removeprefix(prefix): value
        for name, value in state.items()
        if name.startswith(prefix + "side_" if inside_backbone else prefix)
    }
    missing, unknown = sorted(used - theirs.keys()), sorted(theirs.keys() - used)
    if missing or unknown:
        raise ReleasedCheckpointError(
            f"released checkpoint: under {prefix!r} it lacks {missing[:3]!r} and has unknown "
            f"{unknown[:3]!r}, needed exactly the names of {type(network).__name__}. Check the "
            "prefix, and that the network has the preset, layers and widths of the checkpoint."
        )
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    return {
        ours: _stack(ours, [theirs[name] for name in names], shapes[ours])
        for ours, names in table.items()
    }


def released_names(network: SideNetwork) -> dict[str, tuple[str, ...]]:
    """Each of our parameters and buffers, and the authors' that it stacks.

    Raises:
        ReleasedCheckpointError: The authors released no network of this kind.
    """
    modules = _modules(network)
    table: dict[str, tuple[str, ...]] = {}
    for ours in network.state_dict():
        owner, _, leaf = ours.rpartition(".")
        names = modules.get(owner.removesuffix(".batch"), ())
        table[ours] = tuple(modules.get(ours, [f"{name}.{leaf}" for name in names]))
    if own := [ours for ours, names in table.items() if not names]:
        raise ReleasedCheckpointError(
            f"released checkpoint: {type(network).__name__} has {own[:3]!r}, which the authors' "
            "network does not have. Build it with the options of the preset."
        )
    return table


def _stack(name: str, parts: Sequence[Tensor], shape: torch.Size) -> Tensor:
    # A counter of batches has no shape and is the same in all layers that we stack.
    whole = torch.stack(tuple(parts)) if shape else parts[0]
    if whole.numel() != shape.numel():
        raise ReleasedCheckpointError(
            f"released checkpoint: {name} has shape {tuple(whole.shape)}, needed {tuple(shape)}. "
            "Build the network with the widths and the reduction of the checkpoint."
        )
    return whole.reshape(shape)


def _modules(network: SideNetwork) -> Modules:
    match network:
        case TokenUniPT() if network.preset == "vse-text":
            return _vse(network)
        case MapUniPT() if network.preset == "vse-image":
            guidance = {
                f"regions.{i}.guidance": [f"identity_layers.{i}.0"]
                for i in range(len(network.regions))
            }
            return _vse(network) | guidance
        case EmbeddingUniPT() if network.preset == "clip4clip":
            return _clip4clip(network)
        case TokenUniPT() if network.preset == "clip-vil":
            return _clip_vil(network)
        case EncoderDecoderUniPT() if network.preset == "mdetr":
            return _mdetr(network)
        case Ladder() if network.config.block == "post-norm":
            return _ladder(network)
    raise ReleasedCheckpointError(
        f"released checkpoint: there is none for {type(network).__name__}. Build a network with "
        "the preset of one of the released systems."
    )


def _guided(counts: Sequence[int], layers: Sequence[str], linear: int, norm: int | None) -> Modules:
    """The reductions of the guided layers, split over as many streams as there are counts."""
    modules: Modules = {}
    start = 0
    for stream, count in enumerate(counts):
        chosen = layers[start : start + count]
        modules[f"path.guided.{stream}"] = [f"{layer}.{linear}" for layer in chosen]
        if norm is not None:
            modules[f"path.guided.{stream}.norm"] = [f"{layer}.{norm}" for layer in chosen]
        start += count
    return modules


def _vse(network: TokenUniPT | MapUniPT) -> Modules:
    counts = network.path.guided_counts
    last = sum(counts)
    return _guided(counts, [f"downsample_layers.{i}" for i in range(last)], 0, 1) | {
        "path.anchor": [f"downsample_layers.{last}.0"],
        "path.anchor.norm": [f"downsample_layers.{last}.1"],
        "path.block.interaction.gate": ["gate_layer"],
        "path.block.feed_forward.output": ["projection_layer.0"],
        "path.block.feed_forward.norm": ["projection_layer.1"],
        "path.upsample.linear": ["upsample_layer.1"],
    }


def _clip4clip(network: EmbeddingUniPT) -> Modules:
    counts = network.path.guided_counts
    layers = [f"downsample_layers.{i}" for i in range(sum(counts))]
    return _guided(counts, layers, 1, None) | {
        "path.anchor": ["downsample_layer.1"],
        "path.block.interaction.gate": ["gate_layer"],
        "path.upsample.linear": ["upsample_layer.1"],
    }


def _clip_vil(network: TokenUniPT) -> Modules:
    counts = network.path.guided_counts
    layers = ["side_first_downsample_l"]
    layers += [f"side_downsamples_l.{i}" for i in range(sum(counts))]
    return _guided(counts, layers, 0, 1) | {
        "path.anchor": [f"{layers[-1]}.0"],
        "path.anchor.norm": [f"{layers[-1]}.1"],
        "path.block.interaction.gate": ["side_gate_layer_l"],
        "path.block.feed_forward.hidden.0": ["side_projection_l.0"],
        "path.block.feed_forward.output": ["side_projection_l.2"],
        "path.block.feed_forward.norm": ["side_projection_l.3"],
        "path.upsample.linear": ["side_final_upsample_l.0"],
    }


def _mdetr(network: EncoderDecoderUniPT) -> Modules:
    crossers = [f"side_projection_crosser.{i}" for i in range(network.decoder.num_layers)]
    modules: Modules = {
        "memory.output": [f"{name}.0" for name in crossers],
        "memory.output.norm": [f"{name}.1" for name in crossers],
        "upsample.linear": ["side_final_upsample.1"],
        "upsample.norm": ["side_final_upsample.2"],
    }
    for part, stack in (("encoder", network.encoder), ("decoder", network.decoder)):
        layers = [f"side_downsamples_{part}.{i}" for i in range(stack.num_layers)]
        modules |= {
            f"{part}.anchor": [f"side_downsample0_{part}.0"],
            f"{part}.anchor.norm": [f"side_downsample0_{part}.1"],
            f"{part}.guided": [f"{layer}.0" for layer in layers],
            f"{part}.guided.norm": [f"{layer}.1" for layer in layers],
            f"{part}.block.interaction.gate": [f"side_gate_layer_{part}"],
            f"{part}.block.feed_forward.hidden.0": [f"side_projection_{part}.0"],
            f"{part}.block.feed_forward.output": [f"side_projection_{part}.2"],
            f"{part}.block.feed_forward.norm": [f"side_projection_{part}.3"],
        }
    return modules


def _ladder(network: Ladder) -> Modules:
    modules: Modules = {
        "down.0": [
            "side_first_downsample_l",
            *(f"side_downsamples_l.{rung - 1}" for rung in network.rungs),
        ],
        "gates": [f"side_gate_params_l.{i}" for i in range(len(network.gates))],
        "up": ["side_final_upsample_l"],
    }
    for i, rung in enumerate(network.rungs):
        ours, theirs = f"blocks.{i}", f"side_block_l.{rung - 1}"
        modules |= {
            f"{ours}.attention.query_key_value": [
                f"{theirs}.attention.self.{part}" for part in ("query", "key", "value")
            ],
            f"{ours}.attention.output": [f"{theirs}.attention.output.dense"],
            f"{ours}.attention_norm": [f"{theirs}.attention.output.LayerNorm"],
            f"{ours}.perceptron.hidden": [f"{theirs}.intermediate.dense"],
            f"{ours}.perceptron.output": [f"{theirs}.output.dense"],
            f"{ours}.perceptron_norm": [f"{theirs}.output.LayerNorm"],
        }
    return modules
