"""Text models of transformers: encoders such as BERT, and decoders such as GPT-2 and Llama.

B samples, T tokens of the longest, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from pydantic import JsonValue
from torch import Tensor

from cache_schema import BackboneSpec, StreamSpec

from .config import BackboneConfig
from .device import pick_device, resolve_precision
from .errors import BackboneError, UnsupportedBackboneError
from .first_tokens import FIRST_TOKENS
from .identity import digest, file_identity
from .loading import load_model, load_tokenizer
from .resolve import ResolvedBackbone
from .text_model import SEGMENT_IDS, TOKEN_IDS, TOKENS, Encoded, Padded, TextModel
from .tokenizer import TextTokenizer, model_maximum
from .watching import describe_layers, watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# They number positions from the padding id + 1, so their tables are longer than what they take.
_POSITIONS_AFTER_PADDING = (
    "roberta", "xlm-roberta", "camembert", "roberta-prelayernorm", "xlm-roberta-xl", "xmod",
    "data2vec-text", "longformer", "luke", "mpnet",
)  # fmt: skip


@dataclass(frozen=True)
class TextStates:
    """Runs a model of one stream: all its hidden states, the last one the model's real last."""

    model: PreTrainedModel

    def __call__(self, inputs: Mapping[str, Padded]) -> Mapping[str, Sequence[Tensor]]:
        """Each (B, T, D)."""
        tokens = inputs[TOKEN_IDS]
        segments = {}
        if SEGMENT_IDS in inputs:
            segments["token_type_ids"] = inputs[SEGMENT_IDS].ids
        outputs = self.model(
            input_ids=tokens.ids, attention_mask=tokens.mask, output_hidden_states=True, **segments
        )
        # hidden_states[-1] is not the last state in every family; last_hidden_state always is.
        return {TOKENS: [*outputs.hidden_states[:-1], outputs.last_hidden_state]}


def load(
    resolved: ResolvedBackbone, config: BackboneConfig, device: torch.device | str
) -> TextModel:
    """Load a text encoder or decoder that `resolve_backbone` found.

    Raises:
        UnsupportedBackboneError: Its files do not make a whole model, or its states no stream.
        BackboneError: A setting does not fit the model.
    """
    place = pick_device(device)
    precision = resolve_precision(config.precision, place)
    tokenizer = load_tokenizer(resolved, config)
    model = load_model(resolved, config, precision, place)
    keep_no_past(model)
    text = TextTokenizer(
        tokenizer,
        max_length=max_length(resolved.name, model, tokenizer, config.max_length),
        uses_segments=uses_segments(model, tokenizer),
        aligns_words=config.align == "words",
    )
    forward = TextStates(model)
    inputs = {TOKEN_IDS: Padded(probe_ids(tokenizer, model.device), None)}
    states, calls = watch(model, lambda: forward(inputs)[TOKENS])
    whole = [make_stream(resolved.name, TOKENS, states, describe_layers(calls, states))]
    return TextModel(
        forward,
        lambda samples: Encoded.of_tokens(text.tokenize(samples)),
        spec=text_spec(resolved, config, model, precision, text.max_length),
        whole=whole,
        chosen=config.layers,
        identity=text_identity(resolved, config, model, tokenizer, precision, text.max_length),
        stored_inputs=stored_inputs(config, TOKEN_IDS),
        pad_id=int(tokenizer.pad_token_id or 0),
        device=model.device,
    )


def make_stream(
    name: str, stream: str, states: Sequence[Tensor], layers: Sequence[object]
) -> StreamSpec:
    """The stream of all states of a model.

    Raises:
        UnsupportedBackboneError: Layers differ in width.
    """
    widths = sorted({state.shape[-1] for state in states})
    if len(widths) > 1:
        raise UnsupportedBackboneError(
            f"{name}: its layers are {widths} wide, needed one width: its last state is projected "
            "from them. Choose another backbone."
        )
    return StreamSpec(name=stream, width=widths[0], layers=tuple(layers))


def text_spec(
    resolved: ResolvedBackbone,
    config: BackboneConfig,
    model: PreTrainedModel,
    precision: str,
    length: int,
) -> BackboneSpec:
    """What a text model is, for the manifest."""
    options: dict[str, JsonValue] = {
        "load_name": resolved.load_name,
        "layers": chosen_layers(config),
        "modality": config.modality,
        "image_size": image_size_option(config),
        "max_length": length,
        "precision": precision,
        "quantize": config.quantize,
        "align": config.align,
        "trust_remote_code": config.trust_remote_code,
    }
    return BackboneSpec(
        name=resolved.name,
        source="huggingface",
        model=resolved.model,
        revision=resolved.revision,
        architecture=type(model).__name__,
        num_parameters=sum(p.numel() for p in model.parameters()),
        options=options,
    )


def stored_inputs(config: BackboneConfig, *ids: str) -> tuple[str, ...]:
    """What a cache keeps of a text: its ids, and where its words begin if that was asked for."""
    return (*ids, FIRST_TOKENS) if config.align == "words" else ids


def image_size_option(config: BackboneConfig) -> JsonValue:
    """As the user chose, for the manifest."""
    size = config.image_size
    return list(size) if isinstance(size, tuple) else size


def chosen_layers(config: BackboneConfig) -> JsonValue:
    """As the user chose, for the manifest."""
    return "all" if isinstance(config.layers, str) else [*sorted(set(config.layers))]


def text_identity(
    resolved: ResolvedBackbone,
    config: BackboneConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    precision: str,
    length: int,
) -> dict[str, JsonValue]:
    """Everything about a text model that can change a stored number, but the layers."""
    quantised: dict[str, JsonValue] = {"quantize": config.quantize}
    return {
        **file_identity(resolved, config),
        "tokenizer": digest(resolved.tokenizer),
        "architecture": type(model).__name__,
        "tokenizer_backend": f"tokenizers/{type(tokenizer).__name__}",
        "max_length": length,
        "truncation": f"longest_first, {tokenizer.truncation_side}",
        "precision": precision,
        "attention": str(model.config._attn_implementation),
        **(quantised if config.quantize != "none" else {}),
    }


def keep_no_past(model: PreTrainedModel) -> None:
    """Decoders keep keys and values for a next token that never comes."""
    for settings in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        if hasattr(settings, "use_cache"):
            settings.use_cache = False


def probe_ids(tokenizer: PreTrainedTokenizerBase, device: torch.device) -> Tensor:
    """Some tokens to watch a model with, (1, T)."""
    ids = tokenizer("a b", add_special_tokens=True)["input_ids"]
    return torch.tensor([ids], device=device)


def max_length(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: int | None
) -> int:
    """Tokens that a sample is cut to.

    Raises:
        BackboneError: More was asked for than the model takes, or too few for a text.
        UnsupportedBackboneError: Nothing was asked for, and nothing says what the model takes.
    """
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if positions and config.model_type in _POSITIONS_AFTER_PADDING:
        positions -= config.pad_token_id + 1
    if asked is None:
        return model_maximum(tokenizer, positions)
    shortest = tokenizer.num_special_tokens_to_add(pair=True) + 2
    if asked < shortest or (positions and asked > positions):
        needed = f"{shortest} to {positions}" if positions else f"at least {shortest}"
        raise BackboneError(
            f"{name}: max length is {asked}, needed {needed} tokens. Choose another --max-length."
        )
    return asked


def uses_segments(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the model tells the texts of a pair apart."""
    return (
        "token_type_ids" in tokenizer.model_input_names
        and "token_type_ids" in inspect.signature(model.forward).parameters
        and getattr(model.config, "type_vocab_size", 0) > 1
    )
