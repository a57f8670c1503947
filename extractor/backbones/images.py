"""Samples with an image or a video as pixels: read in parallel, resized, failures named.

B samples, F frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..media import (
    ImageRecipe,
    ImageSource,
    VideoSource,
    image_size,
    load_image,
    read_all,
    read_frames,
    video_size,
    view_of,
)
from .base import Sample
from .errors import BackboneError


@dataclass(frozen=True)
class ImageReader:
    """Reads what a backbone of one fixed input size sees.

    Attributes:
        recipe: From image to pixels.
        frames: Frames read of each video; None where the samples are images.
    """

    recipe: ImageRecipe
    frames: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample's pixels: (3, H, W), or (F, 3, H, W)."""
        return (*(() if self.frames is None else (self.frames,)), 3, *self.recipe.size)

    def missing(self, samples: Sequence[Sample]) -> Mapping[int, str]:
        """Position to why a sample cannot be read, as far as a look at its file tells.

        Raises:
            BackboneError: A sample has no image, or no video where those are read.
        """
        if self.frames is None:
            return read_all([image_of(s, at) for at, s in enumerate(samples)], image_size)[1]
        return read_all([video_of(s, at) for at, s in enumerate(samples)], video_size)[1]

    def read(self, samples: Sequence[Sample]) -> tuple[np.ndarray, Mapping[int, str]]:
        """Pixels, zeros where a sample cannot be read, and position to why not.

        Returns:
            (B, 3, H, W) uint8, or (B, F, 3, H, W) for videos; and the failures.

        Raises:
            BackboneError: A sample has no image, or no video where those are read.
        """
        found, failures = read_all(list(enumerate(samples)), self._pixels)
        pixels = np.zeros((len(samples), *self.shape), dtype=np.uint8)
        for at, one in found.items():
            pixels[at] = one
        return pixels, failures

    def _pixels(self, numbered: tuple[int, Sample]) -> np.ndarray:
        at, sample = numbered
        view = view_of(sample)
        if self.frames is None:
            return self.recipe.pixels(load_image(image_of(sample, at)), view)
        frames = read_frames(video_of(sample, at), self.frames)
        return np.stack([self.recipe.pixels(frame, view) for frame in frames])


def image_of(sample: Sample, position: int) -> ImageSource:
    """The image of a sample.

    Raises:
        BackboneError: It has none.
    """
    image = sample.get("image")
    if not isinstance(image, str | Path | bytes):
        raise BackboneError(
            f"sample {position}: image is {type(image).__name__}, needed a path or encoded bytes. "
            "Name the column that holds images."
        )
    return image


def video_of(sample: Sample, position: int) -> VideoSource:
    """The video of a sample.

    Raises:
        BackboneError: It has none.
    """
    video = sample.get("video")
    if not isinstance(video, str | Path | bytes | list | tuple):
        raise BackboneError(
            f"sample {position}: video is {type(video).__name__}, needed a path or a list of "
            "images. Name the column that holds videos."
        )
    return video
