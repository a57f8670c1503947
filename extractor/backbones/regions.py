"""VisualBERT and LXMERT: a text and the regions that a detector found in an image.

B samples, T tokens of the longest text, R regions of the most, N packed rows, D width.

VisualBERT has one stream `tokens`: of each sample its text's tokens, then its regions. LXMERT has
`regions` and `text`, whose last layers are cross-modality layers: the k-th of them is layer
r_layers + k of `regions` and layer l_layers + k of `text`. `text` comes last, because LXMERT's own
heads read its first token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from cache_schema import (
    BackboneSpec,
    FeatureBatch,
    RowLayout,
    StreamBatch,
    StreamSpec,
)

from ..media import RegionRecipe
from .base import Measured, Prepared, Sample
from .config import BackboneConfig
from .device import pick_device, resolve_precision
from .errors import UnsupportedBackboneError
from .layers import choose_layers
from .loading import load_model, load_tokenizer
from .packing import pack_layers, side_by_side
from .padded_text import PaddedText, pad_text
from .resolve import ResolvedBackbone
from .shared_regions import PaddedRegions, measure_regions, pad_regions, read_regions
from .text import make_stream, max_length, probe_ids, text_identity, text_spec, uses_segments
from .text_model import TOKEN_IDS, TOKENS, layer_identity
from .tokenizer import TextTokenizer
from .watching import describe_layers, watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TEXT, REGIONS = "text", "regions"


class RegionForward(Protocol):
    """Runs a model: stream name to all its layers, the last one its real last state."""

    def __call__(
        self, text: PaddedText, regions: PaddedRegions
    ) -> Mapping[str, Sequence[Tensor]]: ...


@dataclass(frozen=True)
class VisualBertStates:
    """Runs a VisualBERT: each state (B, T + R, D)."""

    model: PreTrainedModel

    def __call__(self, text: PaddedText, regions: PaddedRegions) -> Mapping[str, Sequence[Tensor]]:
        """Regions are segment 1, as in the authors' training."""
        outputs = self.model(
            input_ids=text.ids,
            token_type_ids=text.segments,
            attention_mask=text.mask,
            visual_embeds=regions.features,
            visual_attention_mask=regions.mask,
            visual_token_type_ids=torch.ones_like(regions.mask),
            output_hidden_states=True,
        )
        return {TOKENS: [*outputs.hidden_states[:-1], outputs.last_hidden_state]}


@dataclass(frozen=True)
class LxmertStates:
    """Runs an LXMERT: states of `regions` (B, R, D), of `text` (B, T, D).

    The library's hidden states begin after the first layer of each side; what enters those, layer
    0 here, is noted while it runs.
    """

    model: PreTrainedModel

    def __call__(self, text: PaddedText, regions: PaddedRegions) -> Mapping[str, Sequence[Tensor]]:
        """Embeddings, the side's own layers, the cross-modality layers."""
        parts: Any = self.model
        embedded: dict[str, Tensor] = {}
        handles = [
            parts.encoder.visn_fc.register_forward_hook(_keep(embedded, REGIONS)),
            parts.embeddings.register_forward_hook(_keep(embedded, TEXT)),
        ]
        try:
            outputs = self.model(
                input_ids=text.ids,
                token_type_ids=text.segments,
                attention_mask=text.mask,
                visual_feats=regions.features,
                visual_pos=regions.boxes,
                visual_attention_mask=regions.mask,
                output_hidden_states=True,
            )
        finally:
            for handle in handles:
                handle.remove()
        return {
            REGIONS: [embedded[REGIONS], *outputs.vision_hidden_states],
            TEXT: [embedded[TEXT], *outputs.language_hidden_states],
        }


class RegionEncoder:
    """Reads a text and the regions of an image for each sample."""

    stored_inputs = (TOKEN_IDS,)

    def __init__(
        self,
        forward: RegionForward,
        text: TextTokenizer,
        recipe: RegionRecipe,
        *,
        weight: Tensor,
        spec: BackboneSpec,
        whole: Sequence[StreamSpec],
        streams: tuple[StreamSpec, ...],
        identity: dict[str, JsonValue],
        pad_id: int,
    ) -> None:
        self.spec = spec
        self.streams = streams
        self.identity = identity
        self.device = weight.device
        self._forward = forward
        self._text = text
        self._recipe = recipe
        self._weight = weight
        self._pad_id = pad_id
        layers = {stream.name: stream.layers for stream in whole}
        self._kept = {s.name: [layers[s.name].index(x) for x in s.layers] for s in streams}

    def measure(self, samples: Sequence[Sample]) -> Measured:
        """Tokenise, and look at the header of the regions' features, and at their boxes."""
        tokens = self._text.tokenize(samples)
        counts, unread = measure_regions(samples, self._recipe)
        lengths, failures = self._lengths(tokens.lengths, counts, unread)
        num_bytes = tokens.inputs[TOKEN_IDS].values.nbytes
        return Measured(lengths, num_bytes, tokens.truncated, failures)

    def prepare(self, samples: Sequence[Sample]) -> Prepared:
        """Tokenise, and read each different file once: samples refer to it by number."""
        tokens = self._text.tokenize(samples)
        shared = read_regions(samples, self._recipe)
        lengths, failures = self._lengths(tokens.lengths, shared.counts, shared.failures)
        inputs = {**tokens.inputs, **shared.inputs}
        return Prepared(inputs, lengths, tokens.truncated, failures=failures)

    @torch.no_grad()
    def run(
        self,
        prepared: Prepared,
        indices: Sequence[int] | np.ndarray,
        dtype: torch.dtype | None = None,
    ) -> FeatureBatch:
        """The hidden states of these samples, packed (N, L, D)."""
        rows = np.asarray(indices, dtype=np.int64)
        text = pad_text(prepared, rows, self._pad_id, self.device)
        regions = pad_regions(prepared, rows, self._weight)
        states = self._forward(text, regions)
        streams = {}
        for name, kept in self._kept.items():
            layout = RowLayout.from_lengths(prepared.lengths[name][rows])
            places = side_by_side(text.layout, regions.counts) if name == TOKENS else layout
            found = [states[name][at] for at in kept]
            values = pack_layers(found, places.to(self.device), dtype)
            streams[name] = StreamBatch(values, layout.to(self.device))
        return FeatureBatch(streams, torch.from_numpy(rows).to(self.device))

    def _lengths(
        self, words: np.ndarray, counts: np.ndarray, unread: Mapping[int, str]
    ) -> tuple[dict[str, np.ndarray], dict[int, str]]:
        """Rows of each stream, 0 where a sample cannot be read; and why it cannot."""
        empty = np.flatnonzero(words == 0).tolist()
        failures = {**dict.fromkeys(empty, "the text has no tokens"), **unread}
        of_stream = {TOKENS: words + counts, REGIONS: counts, TEXT: words}
        lengths = {stream.name: of_stream[stream.name].astype(np.int64) for stream in self.streams}
        for column in lengths.values():
            column[list(failures)] = 0
        return lengths, failures


def load(
    resolved: ResolvedBackbone, config: BackboneConfig, device: torch.device | str
) -> RegionEncoder:
    """Load a VisualBERT or an LXMERT that `resolve_backbone` found.

    Raises:
        UnsupportedBackboneError: Its files do not make a whole model, or its states no stream.
        BackboneError: A setting does not fit the model.
    """
    place = pick_device(device)
    precision = resolve_precision(config.precision, place)
    tokenizer = load_tokenizer(resolved, config)
    model = load_model(resolved, config, precision, place)
    forward, recipe = _forward(resolved.name, model)
    length = max_length(resolved.name, model, tokenizer, config.max_length)
    text = TextTokenizer(
        tokenizer, max_length=length, uses_segments=uses_segments(model, tokenizer)
    )
    weight = next(model.parameters())
    ids = probe_ids(tokenizer, model.device)
    states, calls = watch(
        model, lambda: forward(_whole_text(ids), _whole_regions(recipe, like=weight))
    )
    whole = [
        make_stream(resolved.name, name, found, describe_layers(calls, found))
        for name, found in states.items()
    ]
    streams = choose_layers(resolved.name, whole, config.layers)
    return RegionEncoder(
        forward,
        text,
        recipe,
        weight=weight,
        spec=text_spec(resolved, config, model, precision, length),
        whole=whole,
        streams=streams,
        identity={
            **text_identity(resolved, config, model, tokenizer, precision, length),
            "regions": {"width": recipe.width, "boxes": recipe.has_boxes},
            **layer_identity(streams),
        },
        pad_id=int(tokenizer.pad_token_id or 0),
    )


def _forward(name: str, model: PreTrainedModel) -> tuple[RegionForward, RegionRecipe]:
    """How a model is run, and what it reads of a file of regions."""
    sizes = model.config
    if sizes.model_type == "lxmert":
        if sizes.visual_pos_dim != 4:
            raise UnsupportedBackboneError(
                f"{name}: visual_pos_dim is {sizes.visual_pos_dim}, needed 4: x1, y1, x2 and y2 of "
                "each region. Choose another backbone."
            )
        return LxmertStates(model), RegionRecipe(sizes.visual_feat_dim, has_boxes=True)
    if sizes.bypass_transformer:
        raise UnsupportedBackboneError(
            f"{name}: bypass_transformer is true, so that only its last layer reads regions; "
            "needed one stream of both in every layer. Choose another backbone."
        )
    return VisualBertStates(model), RegionRecipe(sizes.visual_embedding_dim, has_boxes=False)


def _whole_text(ids_1T: Tensor) -> PaddedText:
    layout = RowLayout.from_lengths([ids_1T.shape[1]])
    return PaddedText(ids_1T, torch.zeros_like(ids_1T), torch.ones_like(ids_1T), layout)


def _whole_regions(recipe: RegionRecipe, *, like: Tensor) -> PaddedRegions:
    """Two regions of nothing, to watch a model with."""
    features = like.new_zeros(1, 2, recipe.width)
    boxes = like.new_zeros(1, 2, 4) if recipe.has_boxes else None
    mask = torch.ones(1, 2, dtype=torch.int64, device=like.device)
    return PaddedRegions(features, boxes, mask, np.array([2]))


def _keep(found: dict[str, Tensor], name: str) -> Callable[..., None]:
    """A hook that keeps a module's output under a name."""

    def note(_module: Any, _args: Any, output: Tensor) -> None:
        found[name] = output

    return note
