"""The released MDETR checkpoints, taken apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..convert import Parts, count, size_of, tensors_of
from ..errors import UnsupportedBackboneError
from .config import MDETRConfig
from .network import MDETR

_HEADS = ("class_embed.", "bbox_embed.", "contrastive_align_projection_")
# Parts that change the frozen states and that the released grounding models do without.
_FOREIGN = ("transformer.CLS.", "qa_embed.", "transformer.encoder.norm.")
_TEXT = "transformer.text_encoder."
_TEXT_SETTINGS = (
    "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "intermediate_size", "max_position_embeddings", "type_vocab_size", "hidden_act",
    "layer_norm_eps", "pad_token_id",
)  # fmt: skip
# Blocks of the third stage, and whether they have three convolutions.
_RESNETS = {
    (2, False): "resnet18",
    (6, False): "resnet34",
    (6, True): "resnet50",
    (23, True): "resnet101",
    (36, True): "resnet152",
}


def take_apart(source: Path, document: Mapping[str, Any], text: Mapping[str, Any]) -> Parts:
    """The averaged weights where there are some, as UniPT's recipes use them.

    Raises:
        UnsupportedBackboneError: It is no MDETR for grounding.
    """
    found = document.get("model_ema") or document.get("model") or document
    state = tensors_of(found, "module.")
    foreign = sorted(name for name in state if name.startswith(_FOREIGN))
    if foreign:
        raise UnsupportedBackboneError(
            f"{source}: has {foreign[0]!r}, needed an MDETR for grounding without parts for "
            "question answering or image-text matching. Use the pretrained checkpoint."
        )
    arguments = vars(document["args"]) if "args" in document else {}
    sizes = _sizes(source, state, arguments, text)
    own = ("backbone.0.body.", "input_proj.", "query_embed.", "transformer.")
    network = {
        name: value
        for name, value in state.items()
        if name.startswith(own)
        and not name.startswith(f"{_TEXT}pooler.")
        and "side_" not in name
        and not name.endswith(("position_ids", "num_batches_tracked"))
    }
    heads = {name: value for name, value in state.items() if name.startswith(_HEADS)}
    left_out = tuple(sorted(state.keys() - network.keys() - heads.keys()))
    return Parts(sizes, network, heads, left_out, MDETR)


def _sizes(
    source: Path, state: Mapping[str, Tensor], arguments: Mapping[str, Any], text: Mapping[str, Any]
) -> MDETRConfig:
    layers = "transformer.{}.layers."
    return MDETRConfig(
        backbone=str(arguments.get("backbone") or _backbone(state)),
        hidden_size=size_of(source, state, "query_embed.weight", 1),
        num_queries=size_of(source, state, "query_embed.weight", 0),
        num_heads=int(arguments.get("nheads", 8)),
        num_encoder_layers=count(state, layers.format("encoder")),
        num_decoder_layers=count(state, layers.format("decoder")),
        intermediate_size=size_of(source, state, f"{layers.format('encoder')}0.linear1.weight", 0),
        text_config={name: text[name] for name in _TEXT_SETTINGS if name in text},
    )


def _backbone(state: Mapping[str, Tensor]) -> str:
    body = "backbone.0.body.layer3."
    has_three = any(name.startswith(f"{body}0.conv3") for name in state)
    return _RESNETS.get((count(state, body), has_three), "resnet101")
