"""Text encoders of transformers as backbones.

B samples, T tokens of the longest, N packed rows, L layers, D width.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from cache_schema import (
    BackboneSpec,
    FeatureBatch,
    Ragged,
    RowLayout,
    StreamBatch,
    StreamSpec,
)

from .base import Measured, Prepared, Sample
from .config import BackboneConfig
from .device import pick_device, resolve_precision
from .errors import BackboneError
from .families import FAMILIES, describe_layers
from .layers import choose_layers
from .loading import load_pretrained
from .resolve import ResolvedBackbone
from .tokenizer import TextTokenizer, model_maximum

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STREAM = "tokens"


class TextEncoder:
    """A frozen text encoder: one stream `tokens`, one row per token, special tokens included."""

    stored_inputs = ("token_ids",)

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: TextTokenizer,
        *,
        spec: BackboneSpec,
        stream: StreamSpec,
        identity: dict[str, JsonValue],
        pad_id: int,
    ) -> None:
        self.spec = spec
        self.streams = (stream,)
        self.identity = identity
        self._model = model
        self._tokenizer = tokenizer
        self._pad_id = pad_id
        self._layers = [layer.index for layer in stream.layers]

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self._model.device

    def measure(self, samples: Sequence[Sample]) -> Measured:
        """Tokenise, and count."""
        prepared = self.prepare(samples)
        token_ids = prepared.inputs["token_ids"]
        assert isinstance(token_ids, Ragged)
        return Measured(prepared.lengths, token_ids.values.nbytes, prepared.truncated)

    def prepare(self, samples: Sequence[Sample]) -> Prepared:
        """Tokenise samples with a `text` and maybe a `text_pair`; no padding."""
        tokens = self._tokenizer.tokenize(samples)
        return Prepared(tokens.inputs, {STREAM: tokens.lengths}, tokens.truncated)

    @torch.no_grad()
    def run(self, prepared: Prepared, indices: Sequence[int] | np.ndarray) -> FeatureBatch:
        """The hidden states of these samples, packed (N, L, D)."""
        rows = np.asarray(indices, dtype=np.int64)
        layout = RowLayout.from_lengths(prepared.lengths[STREAM][rows])
        inputs = self._padded_inputs(prepared, rows, layout)
        layout = layout.to(self.device, non_blocking=True)
        outputs = self._model(
            **inputs,
            # A mask of ones costs time and, on a GPU, a wait for the device.
            attention_mask=None if layout.is_dense else layout.mask().long(),
            output_hidden_states=True,
        )
        # hidden_states[-1] is not the last state in every family; last_hidden_state always is.
        states = [*outputs.hidden_states[:-1], outputs.last_hidden_state]
        values = pack_layers([states[layer] for layer in self._layers], layout)
        stream = StreamBatch(values, layout)
        return FeatureBatch({STREAM: stream}, torch.from_numpy(rows).to(self.device))

    def _padded_inputs(
        self, prepared: Prepared, rows: np.ndarray, layout: RowLayout
    ) -> dict[str, Tensor]:
        positions = layout.positions.numpy()
        inputs = {}
        for name, argument, fill in (
            ("token_ids", "input_ids", self._pad_id),
            ("segment_ids", "token_type_ids", 0),
        ):
            if name in prepared.inputs:
                column = prepared.inputs[name]
                assert isinstance(column, Ragged)
                grid = np.full(layout.num_samples * layout.max_length, fill, dtype=np.int64)
                grid[positions] = column.take(rows).values
                padded = torch.from_numpy(grid.reshape(layout.num_samples, layout.max_length))
                inputs[argument] = padded.to(self.device, non_blocking=True)
        return inputs


def pack_layers(states_BTD: Sequence[Tensor], layout: RowLayout) -> Tensor:
    """Real tokens of some layers as (N, L, D): each layer is read once and written once."""
    width, dtype = states_BTD[0].shape[-1], states_BTD[0].dtype
    packed_NLD = states_BTD[0].new_empty((layout.num_rows, len(states_BTD), width), dtype=dtype)
    for position, state_BTD in enumerate(states_BTD):
        target_ND = packed_NLD[:, position]
        if layout.is_dense:
            target_ND.copy_(state_BTD.flatten(0, 1))
        else:
            torch.index_select(state_BTD.flatten(0, 1), 0, layout.positions, out=target_ND)
    return packed_NLD


def load(
    resolved: ResolvedBackbone, config: BackboneConfig, device: torch.device | str
) -> TextEncoder:
    """Load a text encoder that `resolve_backbone` found.

    Raises:
        UnsupportedBackboneError: Its family is not known, or its files do not make a whole model.
        BackboneError: A setting does not fit the model.
    """
    place = pick_device(device)
    precision = resolve_precision(config.precision, place)
    model, tokenizer = load_pretrained(resolved, config, precision)
    torch.nn.Module.to(model, place)
    family = FAMILIES[model.config.model_type]
    num_blocks = int(model.config.num_hidden_layers)
    layers = describe_layers(family, dict(model.named_modules()), num_blocks)
    whole = StreamSpec(name=STREAM, width=int(model.config.hidden_size), layers=tuple(layers))
    (stream,) = choose_layers(resolved.name, [whole], config.layers)
    text = TextTokenizer(
        tokenizer,
        max_length=_max_length(resolved.name, model, tokenizer, config.max_length),
        uses_segments=_uses_segments(model, tokenizer),
    )
    options: dict[str, JsonValue] = {
        "load_name": resolved.load_name,
        "layers": [layer.index for layer in stream.layers],
        "max_length": text.max_length,
        "precision": precision,
        "trust_remote_code": config.trust_remote_code,
    }
    return TextEncoder(
        model,
        text,
        spec=BackboneSpec(
            name=resolved.name,
            source="huggingface",
            model=resolved.model,
            revision=resolved.revision,
            architecture=type(model).__name__,
            num_parameters=sum(p.numel() for p in model.parameters()),
            options=options,
        ),
        stream=stream,
        identity={
            **_file_identity(resolved, config),
            "architecture": type(model).__name__,
            "tokenizer_backend": f"tokenizers/{type(tokenizer).__name__}",
            "max_length": text.max_length,
            "truncation": f"longest_first, {tokenizer.truncation_side}",
            "layers": [layer.index for layer in stream.layers],
            "final_norms": [layer.final_norm for layer in stream.layers],
            "precision": precision,
            "attention": str(model.config._attn_implementation),
        },
        pad_id=int(tokenizer.pad_token_id or 0),
    )


def _max_length(
    name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: int | None
) -> int:
    positions = getattr(model.config, "max_position_embeddings", None)
    # RoBERTa and MPNet number positions from the padding id + 1, so their tables are longer.
    if model.config.model_type in ("roberta", "xlm-roberta", "mpnet"):
        positions = model.config.max_position_embeddings - model.config.pad_token_id - 1
    if asked is None:
        return model_maximum(tokenizer, positions)
    longest, shortest = positions or asked, tokenizer.num_special_tokens_to_add(pair=True) + 2
    if not shortest <= asked <= longest:
        raise BackboneError(
            f"{name}: max length is {asked}, needed {shortest} to {longest} tokens. "
            "Choose another --max-length."
        )
    return asked


def _uses_segments(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    return (
        "token_type_ids" in tokenizer.model_input_names
        and "token_type_ids" in inspect.signature(model.forward).parameters
        and getattr(model.config, "type_vocab_size", 0) > 1
    )


def _file_identity(resolved: ResolvedBackbone, config: BackboneConfig) -> dict[str, JsonValue]:
    return {
        "weights": _digest(resolved.weights),
        "config": _digest([resolved.config]),
        "tokenizer": _digest(resolved.tokenizer),
        "code": _digest(resolved.code) if config.trust_remote_code else None,
    }


def _digest(paths: Sequence[Path]) -> str:
    """sha256 of one file, or of the names and sha256 of several."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    lines = "".join(f"{d}  {p.name}\n" for d, p in zip(digests, paths, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()
