"""Dual encoders, CLIP and SigLIP: one of their two towers, with its embedding.

B samples, I images, T tokens, D width, E width of the embedding.

A tower's `tokens` are all its hidden states from the embeddings on, none with the final norm, as
CLIP4Clip reads them; its `embedding` is what the two towers are compared by: one row for a text
or an image, one for each frame of a video.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cache_schema import LayerSpec, Ragged, StreamSpec

from .base import Sample
from .config import BackboneConfig
from .device import pick_device, resolve_precision
from .errors import BackboneError
from .image_model import ImageModel, Shape, States
from .loading import load_model, load_tokenizer
from .processor import load_recipe
from .resolve import ResolvedBackbone
from .text import make_stream, max_length, probe_ids, text_identity, text_spec
from .text_model import TOKEN_IDS, TOKENS, Encoded, Padded, TextModel
from .tokenizer import TextTokenizer
from .vision import assemble, probe_pixels, size_options, wrong_size
from .watching import Call, describe_layers, watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

EMBEDDING = "embedding"
_PADDED_TO_MAXIMUM = ("siglip",)  # their texts are read from the last position, a padded one


@dataclass(frozen=True)
class Tower:
    """One side of a dual encoder.

    Attributes:
        model: The tower.
        project: From its pooled state to the embedding; none where that is the embedding.
    """

    model: PreTrainedModel
    project: nn.Module | None

    def __call__(self, **inputs: Any) -> dict[str, list[Tensor]]:
        """`tokens` of all layers, each (B, T, D), and `embedding`, (B, 1, E)."""
        outputs = self.model(output_hidden_states=True, **inputs)
        pooled_BE = outputs.pooler_output
        embedding_BE = pooled_BE if self.project is None else self.project(pooled_BE)
        return {TOKENS: list(outputs.hidden_states), EMBEDDING: [embedding_BE[:, None]]}


@dataclass(frozen=True)
class ImageTower:
    """The vision tower on normalised pixels."""

    tower: Tower
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, pixels_I3HW: Tensor) -> States:
        """Class token and patches; SigLIP has no class token."""
        return self.tower(pixel_values=pixels_I3HW, **self.options)


@dataclass(frozen=True)
class TextTower:
    """The text tower, without a mask.

    CLIP's tokens see only those before them, so that padding after a text reaches none of its
    own, and the authors give no mask; SigLIP's padding is part of its texts.
    """

    tower: Tower

    def __call__(self, inputs: Mapping[str, Padded]) -> Mapping[str, Sequence[Tensor]]:
        """Each (B, T, D), and the embedding."""
        return self.tower(input_ids=inputs[TOKEN_IDS].ids)


def load(
    resolved: ResolvedBackbone, config: BackboneConfig, device: torch.device | str
) -> TextModel | ImageModel:
    """Load the tower of the chosen modality.

    Raises:
        UnsupportedBackboneError: The files do not make a whole model.
        BackboneError: A setting does not fit the model.
    """
    place = pick_device(device)
    precision = resolve_precision(config.precision, place)
    if config.modality == "text":
        return _load_text(resolved, config, precision, place)
    return _load_image(resolved, config, precision, place)


def _load_image(
    resolved: ResolvedBackbone, config: BackboneConfig, precision: str, place: torch.device
) -> ImageModel:
    recipe = load_recipe(resolved, config.image_size)
    model = load_model(resolved, config, precision, place)
    tower, whole = _take_tower(model, "vision_model", "visual_projection")
    del model  # and the other tower with it
    options = size_options(resolved.name, tower.model, recipe, tower.model.config)
    forward = ImageTower(tower, options)
    sample = probe_pixels(tower.model, recipe)
    try:
        streams, states = _describe(resolved.name, whole, lambda: forward(sample))
    except (ValueError, RuntimeError) as error:
        raise wrong_size(resolved.name, tower.model, recipe, error) from error
    shapes = {TOKENS: Shape(("tokens",), (states[TOKENS][0].shape[1],)), EMBEDDING: Shape((), ())}
    return assemble(resolved, config, tower.model, forward, recipe, streams, shapes, precision)


def _load_text(
    resolved: ResolvedBackbone, config: BackboneConfig, precision: str, place: torch.device
) -> TextModel:
    tokenizer = load_tokenizer(resolved, config)
    model = load_model(resolved, config, precision, place)
    model_type = str(model.config.model_type)
    tower, whole = _take_tower(model, "text_model", "text_projection")
    del model  # and the other tower with it
    is_padded = model_type in _PADDED_TO_MAXIMUM
    length = _text_length(resolved.name, tower.model, tokenizer, config.max_length, is_padded)
    text = TextTokenizer(tokenizer, max_length=length, uses_segments=False)
    forward = TextTower(tower)
    ids = probe_ids(tokenizer, tower.model.device)
    streams, _ = _describe(resolved.name, whole, lambda: forward({TOKEN_IDS: Padded(ids, None)}))
    pad_id = int(tokenizer.pad_token_id or 0)
    return TextModel(
        forward,
        partial(_encode, text, pad_to=(length, pad_id) if is_padded else None),
        spec=text_spec(resolved, config, tower.model, precision, length),
        whole=streams,
        chosen=config.layers,
        identity={
            **text_identity(resolved, config, tower.model, tokenizer, precision, length),
            "modality": config.modality,
        },
        stored_inputs=(TOKEN_IDS,),
        # Never read, and never larger than the token that ends a text, which is the largest.
        pad_id=0,
        device=tower.model.device,
    )


def _take_tower(model: PreTrainedModel, side: str, projection: str) -> tuple[Tower, nn.Module]:
    """One tower, and it and its projection under the names that the whole model gives them."""
    project = getattr(model, projection, None)
    tower = Tower(getattr(model, side), project)
    named: dict[str, nn.Module] = {side: tower.model}
    if project is not None:
        named[projection] = project
    return tower, nn.ModuleDict(named)


def _text_length(
    name: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: int | None,
    is_padded: bool,
) -> int:
    if not is_padded:
        return max_length(name, model, tokenizer, asked)
    own = int(model.config.max_position_embeddings)
    if asked not in (None, own):
        raise BackboneError(
            f"{name}: max length is {asked}, needed {own}: every text is padded to that, and read "
            "from its last position. Leave --max-length out."
        )
    return own


def _encode(
    text: TextTokenizer, samples: Sequence[Sample], *, pad_to: tuple[int, int] | None
) -> Encoded:
    """Token ids, and one row of embedding for each text that has tokens."""
    tokens = text.tokenize(samples)
    ids, lengths = tokens.inputs[TOKEN_IDS], tokens.lengths
    if pad_to is not None:
        length, pad_id = pad_to
        padded = np.full((len(ids), length), pad_id, dtype=np.int32)
        real = np.arange(length) < lengths[:, None]
        padded[real] = ids.values
        lengths = np.full(len(ids), length, dtype=np.int64)
        ids = Ragged.from_lengths(padded.reshape(-1), lengths)
    return Encoded(
        {TOKEN_IDS: ids},
        {TOKENS: lengths, EMBEDDING: np.minimum(lengths, 1)},
        tokens.truncated,
    )


def _describe(
    name: str, whole: nn.Module, run: Callable[[], Mapping[str, Sequence[Tensor]]]
) -> tuple[list[StreamSpec], Mapping[str, Sequence[Tensor]]]:
    """Streams of a tower, and the states of a probe."""
    states, calls = watch(whole, run)
    layers = describe_layers(calls, states[TOKENS])
    embedding = states[EMBEDDING][0]
    layer = LayerSpec(
        index=len(layers),
        module=_maker(calls, embedding),
        final_norm=True,  # both families norm the last state before they pool or project it
    )
    return [
        make_stream(name, TOKENS, states[TOKENS], layers),
        make_stream(name, EMBEDDING, [embedding], [layer]),
    ], states


def _maker(calls: Sequence[Call], embedding: Tensor) -> str:
    """The outermost module whose output the embedding is."""
    flat = embedding.flatten()
    made = [
        call.path
        for call in calls
        if call.left is not None
        and call.left.numel() == flat.numel()
        and torch.equal(call.left.flatten(), flat)
    ]
    return made[-1]
