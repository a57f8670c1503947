"""MDETR as a frozen backbone: streams `encoder` and `decoder`.

B samples, N packed rows, L layers, S positions of the longest, Q queries, D width.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from ..packing import pack_layers
from ..padded_text import pad_text
from ..released import load_weights, read_sizes
from ..resolve import ResolvedBackbone
from ..shared_images import measure_shared, normalised_images, read_shared
from .config import MDETRConfig
from .images import map_size
from .inputs import DetectorRecipe, SpanTokenizer, Words
from .network import MDETR

ENCODER, DECODER, TOKEN_IDS, TOKEN_SPANS = "encoder", "decoder", "token_ids", "token_spans"
# The released checkpoint's heads are trained, and its text encoder's pooler is never read.
_UNREAD = (
    "class_embed.", "bbox_embed.", "contrastive_align_projection_", "isfinal_embed.",
    "transformer.text_encoder.pooler.",
)  # fmt: skip


class MDETRBackbone:
    """A frozen MDETR.

    Stream `encoder` has one row per place of the image's map, then one per text token; its grid
    is (height, width) of the map, and the text's rows are as many as the stored `token_ids`.
    Stream `decoder` has one row per query. Nothing is padded before the convolutions, so a sample
    does not change with its batch.
    """

    stored_inputs = (TOKEN_IDS, TOKEN_SPANS)

    def __init__(
        self,
        network: MDETR,
        tokenizer: SpanTokenizer,
        recipe: DetectorRecipe,
        *,
        spec: BackboneSpec,
        streams: tuple[StreamSpec, ...],
        identity: dict[str, JsonValue],
    ) -> None:
        self.spec = spec
        self.streams = streams
        self.identity = identity
        self._network = network
        self._tokenizer = tokenizer
        self._recipe = recipe
        self._pad_id = int(network.config.text_config.get("pad_token_id", 1))

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return self._weight.device

    def measure(self, samples: Sequence[Sample]) -> Measured:
        """Tokenise, and look at the images' sizes."""
        words = self._tokenizer.tokenize(samples)
        sizes, failures = measure_shared(samples)
        grids = np.zeros((len(samples), 2), dtype=np.int64)
        for at, (height, width) in sizes.items():
            grids[at] = map_size(*self._recipe.size(height, width, samples[at]))
        input_bytes = words.token_ids.values.nbytes + words.token_spans.values.nbytes
        return Measured(self._lengths(words, grids), input_bytes, words.truncated, failures)

    def prepare(self, samples: Sequence[Sample]) -> Prepared:
        """Tokenise texts, and read each different image once."""
        words = self._tokenizer.tokenize(samples)
        images = read_shared(samples, self._recipe.pixels)
        sizes = [map_size(*pixels.shape[1:]) for pixels in images.pixels]
        grids = np.array([*sizes, (0, 0)], dtype=np.int64)[images.number_of]
        return Prepared(
            {TOKEN_IDS: words.token_ids, TOKEN_SPANS: words.token_spans, **images.inputs},
            self._lengths(words, grids),
            words.truncated,
            {ENCODER: grids},
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
        streams = {}
        for stream in self.streams:
            layout = RowLayout.from_lengths(prepared.lengths[stream.name][rows]).to(self.device)
            # Layer 0 of the encoder is its input; the decoder has no layer 0.
            given = states.encoder if stream.name == ENCODER else [None, *states.decoder]
            values = pack_layers([given[layer.index] for layer in stream.layers], layout, dtype)
            grid = states.grids if stream.name == ENCODER else None
            streams[stream.name] = StreamBatch(values, layout, grid)
        return FeatureBatch(streams, torch.from_numpy(rows).to(self.device))

    @property
    def _weight(self) -> torch.Tensor:
        return self._network.query_embed.weight

    def _lengths(self, words: Words, grids: np.ndarray) -> dict[str, np.ndarray]:
        places = grids.prod(axis=1)
        is_readable = places > 0
        queries = self._network.config.num_queries
        return {
            ENCODER: np.where(is_readable, places + words.token_ids.lengths, 0),
            DECODER: np.where(is_readable, queries, 0).astype(np.int64),
        }


def load(
    resolved: ResolvedBackbone, config: BackboneConfig, device: torch.device | str
) -> MDETRBackbone:
    """Load an MDETR that was converted.

    Raises:
        UnsupportedBackboneError: Its config or weights are not those of an MDETR.
        BackboneError: A setting does not fit the model.
    """
    place = pick_device(device)
    precision = resolve_precision(config.precision, place)
    sizes = read_sizes(resolved, MDETRConfig)
    recipe = _recipe(resolved.name, sizes, config)
    network = MDETR(sizes)
    load_weights(resolved, network, unread=_UNREAD)
    network.to(place, getattr(torch, precision)).eval().requires_grad_(False)
    tokenizer = SpanTokenizer(
        resolved.folder / "tokenizer.json", max_length=_max_length(resolved.name, sizes, config)
    )
    streams = choose_layers(resolved.name, _streams(sizes), config.layers)
    layers: list[JsonValue] = [*sorted({layer.index for s in streams for layer in s.layers})]
    options: dict[str, JsonValue] = {
        "load_name": resolved.load_name,
        "layers": layers,
        "image_size": recipe.shortest,
        "max_length": tokenizer.max_length,
        "precision": precision,
        "trust_remote_code": config.trust_remote_code,
    }
    return MDETRBackbone(
        network,
        tokenizer,
        recipe,
        spec=BackboneSpec(
            name=resolved.name,
            source="unipt",
            model=resolved.model,
            revision=resolved.revision,
            architecture=f"MDETR({sizes.backbone})",
            num_parameters=sum(p.numel() for p in network.parameters()),
            options=options,
        ),
        streams=streams,
        identity={
            **file_identity(resolved, config),
            "tokenizer": digest([resolved.folder / "tokenizer.json"]),
            "architecture": "unipt/MDETR",
            "image": {
                "shortest": recipe.shortest,
                "longest": recipe.longest,
                "alone": True,
                "decoding": DECODING,
            },
            "max_length": tokenizer.max_length,
            "layers": {s.name: [layer.index for layer in s.layers] for s in streams},
            "final_norms": {s.name: [layer.final_norm for layer in s.layers] for s in streams},
            "precision": precision,
        },
    )


def _streams(sizes: MDETRConfig) -> tuple[StreamSpec, ...]:
    encoder, decoder = "transformer.encoder.layers", "transformer.decoder.layers"
    return (
        StreamSpec(
            name=ENCODER,
            width=sizes.hidden_size,
            axes=("height", "width"),
            layers=(
                LayerSpec(index=0, module=f"{encoder}.0:input", final_norm=None),
                *(
                    LayerSpec(index=at + 1, module=f"{encoder}.{at}", final_norm=None)
                    for at in range(sizes.num_encoder_layers)
                ),
            ),
        ),
        StreamSpec(
            name=DECODER,
            width=sizes.hidden_size,
            layers=(
                *(
                    LayerSpec(index=at + 1, module=f"{decoder}.{at}", final_norm=False)
                    for at in range(sizes.num_decoder_layers - 1)
                ),
                LayerSpec(
                    index=sizes.num_decoder_layers,
                    module="transformer.decoder.norm",
                    final_norm=True,
                ),
            ),
        ),
    )


def _recipe(name: str, sizes: MDETRConfig, config: BackboneConfig) -> DetectorRecipe:
    """Another size of the shorter side takes the longest side with it."""
    if config.image_size is None:
        return DetectorRecipe(sizes.image_size, sizes.max_image_size)
    if not isinstance(config.image_size, int) or config.image_size < 32:
        raise BackboneError(
            f"{name}: the image size is {config.image_size!r}, needed one number of 32 or more: "
            "the pixels of the shorter side. Choose another --image-size."
        )
    longest = round(config.image_size * sizes.max_image_size / sizes.image_size)
    return DetectorRecipe(config.image_size, longest)


def _max_length(name: str, sizes: MDETRConfig, config: BackboneConfig) -> int:
    text = sizes.text_config
    positions = int(text.get("max_position_embeddings", 512))
    # RoBERTa numbers positions from the padding id + 1, so its table is longer.
    if text.get("model_type", "roberta") in ("roberta", "xlm-roberta"):
        positions -= int(text.get("pad_token_id", 1)) + 1
    asked = positions if config.max_length is None else config.max_length
    if not 3 <= asked <= positions:
        raise BackboneError(
            f"{name}: max length is {asked}, needed 3 to {positions} tokens. "
            "Choose another --max-length."
        )
    return asked
