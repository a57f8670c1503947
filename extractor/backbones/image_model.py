"""A frozen image model: pixels in, streams of one fixed number of rows for each image out.

B samples, F frames, I images (B, or B * F), T rows of an image, D width, k axes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from cache_schema import BackboneSpec, FeatureBatch, RowLayout, StreamBatch, StreamSpec

from .base import Measured, Prepared, Sample
from .images import ImageReader
from .layers import choose_layers
from .packing import pack_layers

States = Mapping[str, Sequence[Tensor]]
"""Stream name to all its layers, each (I, T, D)."""


class ImageForward(Protocol):
    """Runs a model on normalised pixels (I, 3, H, W)."""

    def __call__(self, pixels_I3HW: Tensor) -> States: ...


@dataclass(frozen=True)
class Shape:
    """How the rows of one image lie in a stream.

    Attributes:
        axes: Names; none for a single row.
        sizes: As many.
    """

    axes: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        """Of one image."""
        return math.prod(self.sizes)

    def of_sample(self, frames: int | None) -> Shape:
        """Of one sample, with the axes that are stored: a sequence of tokens has none."""
        if frames is not None:
            return Shape(("frames", *self.axes), (frames, *self.sizes))
        return self if len(self.axes) > 1 else Shape((), ())


@dataclass(frozen=True)
class KeptStream:
    """What is stored of one stream.

    Attributes:
        spec: Of a single image, with the layers that are kept.
        positions: Of those among all layers that the model gives.
        shape: Of one image's rows.
    """

    spec: StreamSpec
    positions: tuple[int, ...]
    shape: Shape

    @property
    def name(self) -> str:
        """Of the stream."""
        return self.spec.name

    def of_samples(self, frames: int | None) -> StreamSpec:
        """The stream as it is stored: videos get an axis of frames."""
        return self.spec.model_copy(update={"axes": self.shape.of_sample(frames).axes})


def keep_layers(
    name: str,
    streams: Sequence[StreamSpec],
    shapes: Mapping[str, Shape],
    chosen: Literal["all"] | tuple[int, ...],
) -> list[KeptStream]:
    """Choose among all layers of a model.

    Raises:
        BackboneError: No stream has one of these layers.
    """
    whole = {stream.name: stream.layers for stream in streams}
    return [
        KeptStream(spec, tuple(map(whole[spec.name].index, spec.layers)), shapes[spec.name])
        for spec in choose_layers(name, streams, chosen)
    ]


class ImageModel:
    """Reads an image, or some frames of a video, for each sample."""

    stored_inputs: tuple[str, ...] = ()

    def __init__(
        self,
        forward: ImageForward,
        reader: ImageReader,
        *,
        spec: BackboneSpec,
        streams: Sequence[KeptStream],
        identity: dict[str, JsonValue],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.spec = spec
        self.streams = tuple(stream.of_samples(reader.frames) for stream in streams)
        self.identity = identity
        self.device = device
        self._forward = forward
        self._reader = reader
        self._dtype = dtype
        frames = reader.frames
        self._rows = {s.name: (frames or 1) * s.shape.num_rows for s in streams}
        stored = {s.name: s.shape.of_sample(frames) for s in streams}
        self._grids = {name: shape.sizes for name, shape in stored.items() if shape.axes}
        self._kept = {s.name: s.positions for s in streams}

    def measure(self, samples: Sequence[Sample]) -> Measured:
        """Look at the files' headers."""
        failures = self._reader.missing(samples)
        lengths = self._lengths(len(samples), failures)
        return Measured(lengths, 0, np.zeros(len(samples), dtype=bool), failures)

    def prepare(self, samples: Sequence[Sample]) -> Prepared:
        """Decode, resize and cut; normalised later, on the device."""
        pixels, failures = self._reader.read(samples)
        grids = {
            name: np.tile(np.array(sizes, dtype=np.int64), (len(samples), 1))
            for name, sizes in self._grids.items()
        }
        return Prepared(
            {"pixels": pixels},
            self._lengths(len(samples), failures),
            np.zeros(len(samples), dtype=bool),
            grids,
            failures,
        )

    @torch.no_grad()
    def run(
        self,
        prepared: Prepared,
        indices: Sequence[int] | np.ndarray,
        dtype: torch.dtype | None = None,
    ) -> FeatureBatch:
        """The hidden states of these samples: row after row of an image, frame after frame."""
        rows = np.asarray(indices, dtype=np.int64)
        pixels = prepared.inputs["pixels"]
        assert isinstance(pixels, np.ndarray)
        chosen = torch.from_numpy(pixels[rows]).to(self.device, non_blocking=True)
        images_I3HW = chosen.flatten(0, 1) if chosen.dim() == 5 else chosen
        states = self._forward(self._reader.recipe.normalise(images_I3HW, self._dtype))
        streams = {}
        for spec in self.streams:
            layout = RowLayout.from_lengths([self._rows[spec.name]] * len(rows)).to(self.device)
            grid = None
            if spec.name in self._grids:
                sizes = torch.tensor(self._grids[spec.name], device=self.device)
                grid = sizes.expand(len(rows), -1)
            layers = states[spec.name]
            values = pack_layers([layers[at] for at in self._kept[spec.name]], layout, dtype)
            streams[spec.name] = StreamBatch(values, layout, grid)
        return FeatureBatch(streams, torch.from_numpy(rows).to(self.device))

    def _lengths(self, num_samples: int, failures: Mapping[int, str]) -> dict[str, np.ndarray]:
        lengths = {}
        for name, rows in self._rows.items():
            lengths[name] = np.full(num_samples, rows, dtype=np.int64)
            lengths[name][list(failures)] = 0
        return lengths
