"""Models of timm as backbones: ViTs of any kind, CNNs, hierarchical transformers.

B samples, F frames, R rows of one image, N packed rows, L layers, C width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from pydantic import JsonValue
from safetensors import SafetensorError
from torch import Tensor, nn

from cache_schema import BackboneSpec, FeatureBatch, RowLayout, StreamBatch, StreamSpec

from .base import Measured, Prepared, Sample
from .config import BackboneConfig
from .device import pick_device, resolve_precision
from .errors import UnsupportedBackboneError
from .identity import file_identity
from .images import ImageReader
from .kinds import read_config
from .layers import choose_layers
from .packing import pack_layers
from .resolve import ResolvedBackbone
from .timm_recipe import image_recipe
from .timm_states import StateReader
from .timm_streams import Outline, all_states, outline


class TimmModel:
    """A frozen timm model.

    A ViT has one stream `tokens`, class, distillation and register tokens in front; a CNN or a
    hierarchical transformer has one stream per map size, `stage1` the finest, with a grid.
    """

    stored_inputs: tuple[str, ...] = ()

    def __init__(
        self,
        model: nn.Module,
        states: StateReader,
        reader: ImageReader,
        *,
        spec: BackboneSpec,
        streams: tuple[StreamSpec, ...],
        places: Outline,
        identity: dict[str, JsonValue],
    ) -> None:
        self.spec = spec
        self.streams = streams
        self.identity = identity
        self._weight = next(model.parameters())
        self._states = states
        self._reader = reader
        self._places = places

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self._weight.device

    def measure(self, samples: Sequence[Sample]) -> Measured:
        """The same for every sample that can be read."""
        failures = self._reader.missing(samples)
        lengths = self._lengths(len(samples), failures)
        return Measured(lengths, 0, np.zeros(len(samples), dtype=bool), failures)

    def prepare(self, samples: Sequence[Sample]) -> Prepared:
        """Read images, or frames of videos, and resize them."""
        pixels, failures = self._reader.read(samples)
        return Prepared(
            {"pixels": pixels},
            self._lengths(len(samples), failures),
            np.zeros(len(samples), dtype=bool),
            {s.name: self._grid(s, len(samples)) for s in self.streams if s.axes},
            failures,
        )

    @torch.no_grad()
    def run(
        self,
        prepared: Prepared,
        indices: Sequence[int] | np.ndarray,
        dtype: torch.dtype | None = None,
    ) -> FeatureBatch:
        """The hidden states of these samples, packed (N, L, C)."""
        rows = np.asarray(indices, dtype=np.int64)
        pixels = prepared.inputs["pixels"]
        assert isinstance(pixels, np.ndarray)
        batch = torch.from_numpy(pixels[rows]).to(self.device, non_blocking=True)
        images = self._reader.recipe.normalise(
            batch.flatten(0, -4) if batch.dim() > 4 else batch, self._weight.dtype
        )
        states = all_states(self._states, images)
        streams = {}
        for stream in self.streams:
            layers = [states[number] for number in self._sources(stream)]
            rows_BRC = [state.rows_BRC for state in layers if state is not None]
            layout = RowLayout.from_lengths(prepared.lengths[stream.name][rows]).to(self.device)
            grid = prepared.grids.get(stream.name)
            streams[stream.name] = StreamBatch(
                pack_layers(rows_BRC, layout, dtype),
                layout,
                None if grid is None else torch.from_numpy(grid[rows]).to(self.device),
            )
        return FeatureBatch(streams, torch.from_numpy(rows).to(self.device))

    def _sources(self, stream: StreamSpec) -> list[int]:
        whole = next(s for s in self._places.streams if s.name == stream.name)
        numbers = dict(zip(whole.layers, self._places.sources[stream.name], strict=True))
        return [numbers[layer] for layer in stream.layers]

    def _lengths(self, num_samples: int, failures: Mapping[int, str]) -> dict[str, np.ndarray]:
        frames = self._reader.frames or 1
        lengths = {}
        for stream in self.streams:
            rows = np.full(num_samples, frames * self._places.rows[stream.name], dtype=np.int64)
            rows[list(failures)] = 0
            lengths[stream.name] = rows
        return lengths

    def _grid(self, stream: StreamSpec, num_samples: int) -> np.ndarray:
        shape: tuple[int, ...] = self._places.grids.get(
            stream.name, (self._places.rows[stream.name],)
        )
        if self._reader.frames is not None:
            shape = (self._reader.frames, *shape)
        return np.tile(np.array(shape, dtype=np.int64), (num_samples, 1))


def load(
    resolved: ResolvedBackbone, config: BackboneConfig, device: torch.device | str
) -> TimmModel:
    """Load a model in timm's format that `resolve_backbone` found.

    Raises:
        UnsupportedBackboneError: This timm does not know it, its weights are not whole, or it
            does not give its intermediate states.
        BackboneError: A setting does not fit the model.
    """
    place = pick_device(device)
    precision = resolve_precision(config.precision, place)
    document = read_config(resolved)
    model = _build(resolved, document, config.image_size).to(place, getattr(torch, precision))
    model.eval().requires_grad_(False)
    recipe = image_recipe(resolved.name, model, config.image_size)
    reader = ImageReader(recipe, config.frames)
    states = StateReader(resolved.name, model)
    places = outline(states, _noise(reader, model))
    streams = choose_layers(resolved.name, places.streams, config.layers)
    layers: list[JsonValue] = [*sorted({layer.index for s in streams for layer in s.layers})]
    tag = str((document.get("pretrained_cfg") or document).get("tag") or "")
    return TimmModel(
        model,
        states,
        reader,
        spec=BackboneSpec(
            name=resolved.name,
            source="timm",
            model=resolved.model,
            revision=resolved.revision,
            architecture=str(document["architecture"]),
            num_parameters=sum(p.numel() for p in model.parameters()),
            options={
                "load_name": resolved.load_name,
                "layers": layers,
                "frames": config.frames,
                "image_size": _as_json(config.image_size),
                "precision": precision,
                "trust_remote_code": config.trust_remote_code,
            },
        ),
        streams=tuple(_with_frames(stream, config.frames) for stream in streams),
        places=places,
        identity={
            **file_identity(resolved, config),
            "architecture": f"timm/{document['architecture']}",
            "tag": tag,
            "image": reader.recipe.identity,
            "frames": config.frames,
            "layers": {s.name: [layer.index for layer in s.layers] for s in streams},
            "final_norms": {s.name: [layer.final_norm for layer in s.layers] for s in streams},
            "precision": precision,
        },
    )


def _build(
    resolved: ResolvedBackbone,
    document: Mapping[str, Any],
    image_size: int | tuple[int, int] | None,
) -> nn.Module:
    """The model with its weights, and its positions for another image size interpolated."""
    import timm
    from timm.models import PretrainedCfg

    architecture = str(document["architecture"])
    # Older folders have these settings beside the architecture.
    given = {**(document.get("pretrained_cfg") or document), **document}
    known = [field.name for field in fields(PretrainedCfg)]
    settings = {name: given[name] for name in known if name in given}
    arguments = dict(document.get("model_args") or {})
    if not timm.is_model(architecture):
        raise UnsupportedBackboneError(
            f"{resolved.name}: its architecture is {architecture!r}, needed one that timm "
            f"{timm.__version__} knows. Install a newer timm."
        )
    usual = timm.get_pretrained_cfg(architecture)
    is_fixed = settings.get("fixed_input_size", usual is not None and usual.fixed_input_size)
    if image_size is not None and is_fixed:
        arguments["img_size"] = image_size
    try:
        model: nn.Module = timm.create_model(
            architecture,
            pretrained=True,
            pretrained_cfg=settings,
            pretrained_cfg_overlay={"file": str(resolved.weights[0]), "custom_load": False},
            **arguments,
        )
    except (OSError, ValueError, RuntimeError, TypeError, AssertionError, SafetensorError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise UnsupportedBackboneError(
            f"{resolved.name}: cannot be loaded from {resolved.folder}: {said}. "
            "Check that its files are complete."
        ) from error
    return model


def _noise(reader: ImageReader, model: nn.Module) -> Tensor:
    """Two images of noise as the model would get them."""
    weight = next(model.parameters())
    noise = torch.randn(2, 3, *reader.recipe.size, generator=torch.Generator().manual_seed(0))
    return noise.to(weight)


def _with_frames(stream: StreamSpec, frames: int | None) -> StreamSpec:
    if frames is None:
        return stream
    return stream.model_copy(update={"axes": ("frames", *(stream.axes or ("tokens",)))})


def _as_json(image_size: int | tuple[int, int] | None) -> JsonValue:
    return list(image_size) if isinstance(image_size, tuple) else image_size
