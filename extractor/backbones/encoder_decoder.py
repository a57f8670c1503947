"""Encoder-decoders of transformers, T5 and BART and their kin: streams `encoder` and `decoder`.

B samples, T tokens of the longest, D width.

The encoder reads `text`. The decoder reads its start token and then, shifted by it as in training,
`text_pair` where there is one. Without a pair, families that classify with their decoder (BART)
read the text once more, as their classification head does; T5 and its kin read the start token
alone. Words that are aligned are those of what the encoder reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cache_schema import Ragged

from .base import Sample
from .config import BackboneConfig
from .device import pick_device, resolve_precision
from .errors import UnsupportedBackboneError
from .loading import load_model, load_tokenizer
from .resolve import ResolvedBackbone
from .text import (
    keep_no_past,
    make_stream,
    max_length,
    probe_ids,
    stored_inputs,
    text_identity,
    text_spec,
)
from .text_model import TOKEN_IDS, Encoded, Padded, TextModel
from .tokenizer import TextTokenizer
from .watching import describe_layers, watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENCODER, DECODER, DECODER_IDS = "encoder", "decoder", "decoder_ids"
_READ_THE_START_ALONE = (
    "t5", "mt5", "umt5", "longt5", "switch_transformers", "t5gemma", "t5gemma2",
)  # fmt: skip
_START_WITH_THE_LAST = ("mbart", "plbart")  # a text ends with its language, its decoder begins so


@dataclass(frozen=True)
class EncoderDecoderStates:
    """Runs both stacks: all hidden states, the last one of each its real last."""

    model: PreTrainedModel

    def __call__(self, inputs: Mapping[str, Padded]) -> Mapping[str, Sequence[Tensor]]:
        """Each (B, T, D), with a T for each stack."""
        read, written = inputs[TOKEN_IDS], inputs[DECODER_IDS]
        outputs = self.model(
            input_ids=read.ids,
            attention_mask=read.mask,
            decoder_input_ids=written.ids,
            decoder_attention_mask=written.mask,
            output_hidden_states=True,
        )
        return {
            ENCODER: [*outputs.encoder_hidden_states[:-1], outputs.encoder_last_hidden_state],
            DECODER: [*outputs.decoder_hidden_states[:-1], outputs.last_hidden_state],
        }


@dataclass(frozen=True)
class EncodePairs:
    """Samples as what the encoder and the decoder read.

    Attributes:
        text: The tokenizer.
        start: Token that the decoder starts with; None where it is the last of its text.
        reads_text_again: Whether the decoder reads the text where there is no pair.
    """

    text: TextTokenizer
    start: int | None
    reads_text_again: bool

    def __call__(self, samples: Sequence[Sample]) -> Encoded:
        """Token ids of both, and the first tokens of words where those are aligned.

        Raises:
            BackboneError: A sample has no text, or some have a pair and others do not.
        """
        sources, targets = self.text.tokenize_apart(samples)
        ids, truncated = sources.inputs[TOKEN_IDS], sources.truncated
        if targets is not None:
            decoder_ids = self._shift(targets.inputs[TOKEN_IDS])
            truncated = truncated | targets.truncated
        elif self.reads_text_again:
            decoder_ids = self._shift(ids)
        else:
            starts = np.full(len(samples), self.start, dtype=np.int32)
            decoder_ids = Ragged.from_lengths(starts, np.ones(len(samples), dtype=np.int64))
        return Encoded(
            {**sources.inputs, DECODER_IDS: decoder_ids},
            {ENCODER: ids.lengths, DECODER: decoder_ids.lengths},
            truncated,
        )

    def _shift(self, ids: Ragged) -> Ragged:
        """The start token, and all tokens but the last."""
        rows = []
        for row in (ids[at] for at in range(len(ids))):
            start = row[-1:] if self.start is None else np.array([self.start], dtype=np.int32)
            rows.append(np.concatenate([start, row[:-1]]))
        return Ragged.from_rows(rows, np.int32)


def load(
    resolved: ResolvedBackbone, config: BackboneConfig, device: torch.device | str
) -> TextModel:
    """Load an encoder-decoder that `resolve_backbone` found.

    Raises:
        UnsupportedBackboneError: Its files do not make a whole model, or it has no start token.
        BackboneError: A setting does not fit the model.
    """
    place = pick_device(device)
    precision = resolve_precision(config.precision, place)
    tokenizer = load_tokenizer(resolved, config)
    model = load_model(resolved, config, precision, place)
    keep_no_past(model)
    length = max_length(resolved.name, model, tokenizer, config.max_length)
    family = str(model.config.model_type)
    encode = EncodePairs(
        TextTokenizer(
            tokenizer,
            max_length=length,
            uses_segments=False,
            aligns_words=config.align == "words",
        ),
        None if family in _START_WITH_THE_LAST else _start(resolved.name, model),
        reads_text_again=family not in _READ_THE_START_ALONE,
    )
    forward = EncoderDecoderStates(model)
    ids = Padded(probe_ids(tokenizer, model.device), None)
    states, calls = watch(model, lambda: forward({TOKEN_IDS: ids, DECODER_IDS: ids}))
    whole = []
    for stream in (ENCODER, DECODER):
        own = [call for call in calls if call.path.split(".")[0] == stream]
        layers = describe_layers(own, states[stream])
        whole.append(make_stream(resolved.name, stream, states[stream], layers))
    return TextModel(
        forward,
        encode,
        spec=text_spec(resolved, config, model, precision, length),
        whole=whole,
        chosen=config.layers,
        identity={
            **text_identity(resolved, config, model, tokenizer, precision, length),
            "decoder_reads": f"start, text_pair{' or text' * encode.reads_text_again}",
        },
        stored_inputs=stored_inputs(config, TOKEN_IDS, DECODER_IDS),
        pad_id=int(tokenizer.pad_token_id or 0),
        device=model.device,
    )


def _start(name: str, model: PreTrainedModel) -> int:
    for settings in (model.config, getattr(model.config, "decoder", None)):
        start = getattr(settings, "decoder_start_token_id", None)
        if start is not None:
            return int(start)
    raise UnsupportedBackboneError(
        f"{name}: config.json has no decoder_start_token_id, needed the token that its decoder "
        "starts with. Add it there."
    )
