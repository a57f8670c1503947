"""CLIP-ViL as a frozen backbone: one stream `tokens` of words and places.

B samples, N packed rows, L layers, S positions of the longest sample, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pydantic import JsonValue

from cache_schema import (
    BackboneSpec,
    FeatureBatch,
    LayerSpec,
    RowLayout,
    StreamBatch,
    StreamSpec,
)

from ...rgb import DECODING
from ..base import Measured, Prepared, Sample
from ..config import BackboneConfig
from ..device import pick_device, resolve_precision
from ..errors import BackboneError
from ..identity import digest, file_identity
from ..layers import choose_layers
from ..loading import load_tokenizer
from ..packing import pack_layers
from ..padded_text import pad_text
from ..released import load_weights, read_sizes
from ..resolve import ResolvedBackbone
from ..shared_images import measure_shared, normalised_images, read_shared
from ..tokenizer import TextTokenizer
from .config import ClipViLConfig
from .inputs import LetterboxRecipe
from .network import ClipViL
from .visual import STRIDE

STREAM, TOKEN_IDS = "tokens", "token_ids"
# Pooler and answer head are trained; the rest is what the released pretraining needed.
_UNREAD = (
    "bert.pooler.", "answer_head.", "logit_fc.", "cls.", "obj_predict_head.",
    "bert.encoder.visn_fc.box_", "bert.encoder.visual_model.visual.attnpool.",
    "bert.encoder.visual_model.token_embedding.", "bert.encoder.visual_model.ln_final.",
    "bert.encoder.visual_model.positional_embedding", "bert.encoder.visual_model.text_projection",
    "bert.encoder.visual_model.logit_scale",
)  # fmt: skip


class ClipViLBackbone:
    """A frozen CLIP-ViL.

    A sample's rows are its text's tokens, as many as the stored `token_ids`, then its image's
    places row by row. The image network sees every different image once per batch, however many
    questions are about it.
    """

    stored_inputs = (TOKEN_IDS,)

    def __init__(
        self,
        network: ClipViL,
        tokenizer: TextTokenizer,
        recipe: LetterboxRecipe,
        *,
        spec: BackboneSpec,
        stream: StreamSpec,
        identity: dict[str, JsonValue],
        pad_id: int,
    ) -> None:
        self.spec = spec
        self.streams = (stream,)
        self.identity = identity
        self._network = network
        self._tokenizer = tokenizer
        self._recipe = recipe
        self._pad_id = pad_id

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return self._weight.device

    def measure(self, samples: Sequence[Sample]) -> Measured:
        """Tokenise, and look at the images' headers."""
        tokens = self._tokenizer.tokenize(samples)
        _, failures = measure_shared(samples)
        lengths = self._lengths(tokens.lengths, failures)
        return Measured(lengths, tokens.inputs[TOKEN_IDS].values.nbytes, tokens.truncated, failures)

    def prepare(self, samples: Sequence[Sample]) -> Prepared:
        """Tokenise texts, and read each different image once."""
        tokens = self._tokenizer.tokenize(samples)
        images = read_shared(samples, self._recipe.pixels)
        return Prepared(
            {TOKEN_IDS: tokens.inputs[TOKEN_IDS], **images.inputs},
            self._lengths(tokens.lengths, images.failures),
            tokens.truncated,
            {},
            images.failures,
        )

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
        sizes = self._network.config
        images, image_of = normalised_images(
            prepared.inputs, rows, sizes.image_mean, sizes.image_std, self._weight
        )
        states = self._network(images, text.ids, text.mask, image_of)
        layout = RowLayout.from_lengths(prepared.lengths[STREAM][rows]).to(self.device)
        layers = [layer.index for layer in self.streams[0].layers]
        values = pack_layers([states.tokens[layer] for layer in layers], layout, dtype)
        stream = StreamBatch(values, layout)
        return FeatureBatch({STREAM: stream}, torch.from_numpy(rows).to(self.device))

    @property
    def _weight(self) -> torch.Tensor:
        return self._network.bert.embeddings.word_embeddings.weight

    def _lengths(self, words: np.ndarray, failures: Mapping[int, str]) -> dict[str, np.ndarray]:
        places = self._recipe.shortest * self._recipe.longest // STRIDE**2
        lengths = words.astype(np.int64) + places
        lengths[list(failures)] = 0
        return {STREAM: lengths}


def load(
    resolved: ResolvedBackbone, config: BackboneConfig, device: torch.device | str
) -> ClipViLBackbone:
    """Load a CLIP-ViL that was converted.

    Raises:
        UnsupportedBackboneError: Its config or weights are not those of a CLIP-ViL.
        BackboneError: A setting does not fit the model.
    """
    place = pick_device(device)
    precision = resolve_precision(config.precision, place)
    sizes = read_sizes(resolved, ClipViLConfig)
    recipe = _recipe(resolved.name, sizes, config)
    length = _max_length(resolved.name, sizes, config)
    tokenizer = load_tokenizer(resolved, config)
    network = ClipViL(sizes)
    load_weights(resolved, network, unread=_UNREAD)
    network.to(place, getattr(torch, precision)).eval().requires_grad_(False)
    (stream,) = choose_layers(resolved.name, [_stream(sizes)], config.layers)
    layers: list[JsonValue] = [layer.index for layer in stream.layers]
    options: dict[str, JsonValue] = {
        "load_name": resolved.load_name,
        "layers": layers,
        "image_size": recipe.shortest,
        "max_length": length,
        "precision": precision,
        "trust_remote_code": config.trust_remote_code,
    }
    return ClipViLBackbone(
        network,
        TextTokenizer(tokenizer, max_length=length, uses_segments=False),
        recipe,
        spec=BackboneSpec(
            name=resolved.name,
            source="unipt",
            model=resolved.model,
            revision=resolved.revision,
            architecture="ClipViL",
            num_parameters=sum(p.numel() for p in network.parameters()),
            options=options,
        ),
        stream=stream,
        identity={
            **file_identity(resolved, config),
            "tokenizer": digest(resolved.tokenizer),
            "architecture": "unipt/ClipViL",
            "image": {
                "shortest": recipe.shortest,
                "longest": recipe.longest,
                "decoding": DECODING,
            },
            "max_length": length,
            "layers": layers,
            "final_norms": [None] * len(layers),
            "precision": precision,
        },
        pad_id=int(tokenizer.pad_token_id or 0),
    )


def _stream(sizes: ClipViLConfig) -> StreamSpec:
    layer = "bert.encoder.layer"
    return StreamSpec(
        name=STREAM,
        width=sizes.hidden_size,
        layers=(
            LayerSpec(index=0, module=f"{layer}.0:input", final_norm=None),
            *(
                LayerSpec(index=at + 1, module=f"{layer}.{at}", final_norm=None)
                for at in range(sizes.num_layers)
            ),
        ),
    )


def _recipe(name: str, sizes: ClipViLConfig, config: BackboneConfig) -> LetterboxRecipe:
    """Another size of the shorter side takes the longer side with it."""
    shortest, longest = sizes.image_size
    if config.image_size is not None:
        asked = config.image_size
        shortest = asked if isinstance(asked, int) else 0
        longest = shortest * sizes.image_size[1] // sizes.image_size[0] // STRIDE * STRIDE
    furthest = STRIDE * sizes.visual_positions
    if shortest < STRIDE or shortest % STRIDE or longest > furthest:
        most = furthest * sizes.image_size[0] // sizes.image_size[1] // STRIDE * STRIDE
        raise BackboneError(
            f"{name}: the image size is {config.image_size!r}, needed one multiple of {STRIDE}, at "
            f"most {most}: the pixels of the shorter side. Choose another --image-size."
        )
    return LetterboxRecipe(shortest, longest)


def _max_length(name: str, sizes: ClipViLConfig, config: BackboneConfig) -> int:
    asked = sizes.max_length if config.max_length is None else config.max_length
    if not 3 <= asked <= sizes.max_position_embeddings:
        raise BackboneError(
            f"{name}: max length is {asked}, needed 3 to {sizes.max_position_embeddings} tokens. "
            "Choose another --max-length."
        )
    return asked
