"""ViLT: a text and the patches of an image, read by one encoder together.

B samples, T tokens of the longest text, P image tokens of the largest image (its class token and
its patches), N packed rows, D width, U different images, H height, W width of one.

The rows of a sample are its text's tokens, then the image's class token, then its patches, line
by line. Encoders that read the regions of a detector instead of an image are in `regions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import JsonValue
from torch import Tensor

from cache_schema import (
    BackboneSpec,
    FeatureBatch,
    RowLayout,
    StreamBatch,
    StreamSpec,
)

from .base import Measured, Prepared, Sample
from .config import BackboneConfig
from .device import pick_device, resolve_precision
from .errors import UnsupportedBackboneError
from .fitted import FittedRecipe, fitted_recipe
from .layers import choose_layers
from .loading import load_model, load_tokenizer
from .packing import pack_layers, side_by_side
from .padded_text import pad_text
from .processor import read_processor
from .resolve import ResolvedBackbone
from .shared_images import images_of, measure_shared, read_shared
from .text import make_stream, max_length, probe_ids, text_identity, text_spec, uses_segments
from .text_model import TOKEN_IDS, TOKENS, layer_identity
from .tokenizer import TextTokenizer
from .watching import describe_layers, watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ViltStates:
    """Runs a ViLT on images that were embedded one by one.

    The library's own way to embed images draws the order of their patches at random, and pads
    them with patches drawn at random; here they stay in order, and padding is masked.
    """

    model: PreTrainedModel

    def embed(self, pixels_3HW: Tensor) -> Tensor:
        """(P, D): class token and patches of one image, with their positions."""
        parts: Any = self.model.embeddings
        map_1DHW = parts.patch_embeddings(pixels_3HW[None])
        side = self.model.config.image_size // self.model.config.patch_size
        positions_1PD = parts.position_embeddings
        of_map = positions_1PD[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        of_patches = F.interpolate(
            of_map, size=map_1DHW.shape[2:], mode="bilinear", align_corners=True
        )
        patches_PD: Tensor = (map_1DHW + of_patches).flatten(2)[0].T
        return torch.cat([parts.cls_token[0] + positions_1PD[:, 0], patches_PD])

    def __call__(
        self, ids_BT: Tensor, segments_BT: Tensor, mask_BT: Tensor, images: Sequence[Tensor]
    ) -> list[Tensor]:
        """Every layer's (B, T + P, D), the last one the model's real last state."""
        images_BPD = torch.nn.utils.rnn.pad_sequence(list(images), batch_first=True)
        lengths = torch.tensor([len(image) for image in images], device=ids_BT.device)
        steps = torch.arange(images_BPD.shape[1], device=ids_BT.device)
        outputs = self.model(
            input_ids=ids_BT,
            token_type_ids=segments_BT,
            attention_mask=mask_BT,
            image_embeds=images_BPD,
            pixel_mask=(steps < lengths[:, None]).long(),
            output_hidden_states=True,
        )
        return [*outputs.hidden_states[:-1], outputs.last_hidden_state]


class JointEncoder:
    """Reads a text and an image for each sample; one stream `tokens`."""

    stored_inputs = (TOKEN_IDS,)

    def __init__(
        self,
        states: ViltStates,
        text: TextTokenizer,
        recipe: FittedRecipe,
        *,
        spec: BackboneSpec,
        whole: StreamSpec,
        stream: StreamSpec,
        identity: dict[str, JsonValue],
        pad_id: int,
    ) -> None:
        self.spec = spec
        self.streams = (stream,)
        self.identity = identity
        self._states = states
        self._text = text
        self._recipe = recipe
        self._pad_id = pad_id
        self._kept = [whole.layers.index(layer) for layer in stream.layers]
        self._patch = int(states.model.config.patch_size)

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self._states.model.device

    def measure(self, samples: Sequence[Sample]) -> Measured:
        """Tokenise, and look at the images' headers."""
        tokens = self._text.tokenize(samples)
        found, failures = measure_shared(samples)
        sizes = {at: self._recipe.size_of(samples[at], whole) for at, whole in found.items()}
        lengths = self._lengths(tokens.lengths, sizes)
        num_bytes = tokens.inputs[TOKEN_IDS].values.nbytes
        return Measured({TOKENS: lengths}, num_bytes, tokens.truncated, failures)

    def prepare(self, samples: Sequence[Sample]) -> Prepared:
        """Tokenise, and decode each different image once: samples refer to it by number."""
        tokens = self._text.tokenize(samples)
        shared = read_shared(samples, self._recipe.pixels)
        sizes = {
            at: shared.pixels[number].shape[1:]
            for at, number in enumerate(shared.number_of.tolist())
            if number >= 0
        }
        lengths = self._lengths(tokens.lengths, sizes)
        inputs = {**tokens.inputs, **shared.inputs}
        return Prepared(inputs, {TOKENS: lengths}, tokens.truncated, failures=shared.failures)

    @torch.no_grad()
    def run(
        self,
        prepared: Prepared,
        indices: Sequence[int] | np.ndarray,
        dtype: torch.dtype | None = None,
    ) -> FeatureBatch:
        """The hidden states of these samples: of each its text's tokens, then its image's."""
        rows = np.asarray(indices, dtype=np.int64)
        text = pad_text(prepared, rows, self._pad_id, self.device)
        images = self._embed(prepared, rows)
        states = self._states(text.ids, text.segments, text.mask, images)
        counts = np.array([len(image) for image in images])
        places = side_by_side(text.layout, counts)
        layout = RowLayout.from_lengths(places.lengths)
        values = pack_layers([states[at] for at in self._kept], places.to(self.device), dtype)
        stream = StreamBatch(values, layout.to(self.device))
        return FeatureBatch({TOKENS: stream}, torch.from_numpy(rows).to(self.device))

    def _embed(self, prepared: Prepared, rows: np.ndarray) -> list[Tensor]:
        """(P, D) of the image of each sample, every different one embedded once."""
        dtype = next(self._states.model.parameters()).dtype
        images, numbers = images_of(prepared.inputs, rows)
        embedded = [
            self._states.embed(
                self._recipe.colours.normalise(torch.from_numpy(image).to(self.device), dtype)
            )
            for image in images
        ]
        return [embedded[number] for number in numbers.tolist()]

    def _lengths(self, text: np.ndarray, sizes: Mapping[int, Sequence[int]]) -> np.ndarray:
        """Rows of each sample: text, class token, patches; 0 where there is no image."""
        lengths = np.zeros(len(text), dtype=np.int64)
        for at, (height, width) in sizes.items():
            lengths[at] = text[at] + 1 + (height // self._patch) * (width // self._patch)
        return lengths


def load(
    resolved: ResolvedBackbone, config: BackboneConfig, device: torch.device | str
) -> JointEncoder:
    """Load a ViLT that `resolve_backbone` found.

    Raises:
        UnsupportedBackboneError: Its files do not make a whole model, or it reads but a random
            part of an image.
        BackboneError: A setting does not fit the model.
    """
    place = pick_device(device)
    precision = resolve_precision(config.precision, place)
    tokenizer = load_tokenizer(resolved, config)
    model = load_model(resolved, config, precision, place)
    if model.config.max_image_length > 0:
        raise UnsupportedBackboneError(
            f"{resolved.name}: max_image_length is {model.config.max_image_length}, so that only "
            "some patches, drawn at random, would be read; needed -1. Set it in config.json."
        )
    settings = read_processor(resolved)
    patch = int(model.config.patch_size)
    recipe = fitted_recipe(resolved.name, settings, patch, config.image_size)
    length = max_length(resolved.name, model, tokenizer, config.max_length)
    text = TextTokenizer(
        tokenizer, max_length=length, uses_segments=uses_segments(model, tokenizer)
    )
    states = ViltStates(model)
    ids = probe_ids(tokenizer, model.device)
    dtype = next(model.parameters()).dtype
    image = torch.zeros(3, recipe.shorter, recipe.shorter, device=model.device, dtype=dtype)
    found, calls = watch(
        model,
        lambda: states(ids, torch.zeros_like(ids), torch.ones_like(ids), [states.embed(image)]),
    )
    whole = make_stream(resolved.name, TOKENS, found, describe_layers(calls, found))
    (stream,) = choose_layers(resolved.name, [whole], config.layers)
    return JointEncoder(
        states,
        text,
        recipe,
        spec=text_spec(resolved, config, model, precision, length),
        whole=whole,
        stream=stream,
        identity={
            **text_identity(resolved, config, model, tokenizer, precision, length),
            "image": recipe.identity,
            **layer_identity([stream]),
        },
        pad_id=int(tokenizer.pad_token_id or 0),
    )
