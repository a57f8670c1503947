"""The released CLIP-ViL checkpoints, taken apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..convert import Parts, count, size_of, tensors_of
from .config import ClipViLConfig
from .network import ClipViL

_HEADS = ("bert.pooler.", "answer_head.", "logit_fc.")
_OWN = (
    "bert.embeddings.", "bert.encoder.layer.", "bert.encoder.visn_fc.visn_",
    "bert.encoder.visual_pos.", "bert.encoder.visual_model.visual.",
)  # fmt: skip
_UNREAD = "bert.encoder.visual_model.visual.attnpool."
_EMBEDDINGS, _ENCODER = "bert.embeddings", "bert.encoder"


def take_apart(source: Path, document: Mapping[str, Any], text: Mapping[str, Any]) -> Parts:
    """The pretrained model, or one that was trained to answer questions.

    Raises:
        UnsupportedBackboneError: It is no CLIP-ViL.
    """
    state = tensors_of(document, "module.", "lxrt_encoder.model.", "module.")
    network = {
        name: value
        for name, value in state.items()
        if name.startswith(_OWN)
        and not name.startswith(_UNREAD)
        and not name.endswith("num_batches_tracked")
    }
    heads = {name: value for name, value in state.items() if name.startswith(_HEADS)}
    left_out = tuple(sorted(state.keys() - network.keys() - heads.keys()))
    return Parts(_sizes(source, state, text), network, heads, left_out, ClipViL)


def _sizes(source: Path, state: Mapping[str, Tensor], text: Mapping[str, Any]) -> ClipViLConfig:
    def size(name: str, axis: int) -> int:
        return size_of(source, state, name, axis)

    hidden = size(f"{_EMBEDDINGS}.word_embeddings.weight", 1)
    visual = f"{_ENCODER}.visual_model.visual"
    stages = [count(state, f"{visual}.layer{stage}.") for stage in range(1, 5)]
    is_known = text.get("hidden_size") == hidden
    return ClipViLConfig(
        vocab_size=size(f"{_EMBEDDINGS}.word_embeddings.weight", 0),
        hidden_size=hidden,
        num_layers=count(state, f"{_ENCODER}.layer."),
        # BERT's heads are 64 wide.
        num_heads=int(text["num_attention_heads"]) if is_known else max(1, hidden // 64),
        intermediate_size=size(f"{_ENCODER}.layer.0.intermediate.dense.weight", 0),
        max_position_embeddings=size(f"{_EMBEDDINGS}.position_embeddings.weight", 0),
        type_vocab_size=size(f"{_EMBEDDINGS}.token_type_embeddings.weight", 0),
        visual_layers=(stages[0], stages[1], stages[2], stages[3]),
        visual_width=size(f"{visual}.conv3.weight", 0),
        visual_positions=size(f"{_ENCODER}.visual_pos.x_position_embedding.weight", 0),
    )
