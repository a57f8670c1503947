"""What CLIP-ViL reads of an image: all of it, with black where it does not fill the frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from ...media import ImageSource, load_image, view_of
from ..base import Sample


@dataclass(frozen=True)
class LetterboxRecipe:
    """How an image becomes pixels: (shortest, longest), upright images the other way round.

    Source: the released code resizes to a shorter side of 384 and at most 640 pixels, and puts
    the image in the middle of 384 x 640. There a square counts as upright.

    Attributes:
        shortest: Pixels of the frame's shorter side.
        longest: Pixels of its longer side.
    """

    shortest: int
    longest: int

    def frame(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the pixels of an image of this size."""
        is_upright = width <= height
        return (self.longest, self.shortest) if is_upright else (self.shortest, self.longest)

    def inner(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the image in the frame."""
        shortest, low, high = self.shortest, min(height, width), max(height, width)
        if high / low * shortest > self.longest:
            shortest = max(1, round(self.longest * low / high))
        if height < width:
            return shortest, int(shortest * width / height)
        return int(shortest * height / width), shortest

    def pixels(self, sample: Sample, source: ImageSource) -> np.ndarray:
        """(3, H, W) uint8; an augmented view is a part of the image, or its mirror image."""
        image, view = load_image(source), view_of(sample)
        if view is not None:
            width, height = image.size
            left, upper, right, lower = view.box
            image = image.crop(
                (round(left * width), round(upper * height),
                 round(right * width), round(lower * height))
            )  # fmt: skip
            if view.is_flipped:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        height, width = self.inner(image.height, image.width)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        frame_height, frame_width = self.frame(height, width)
        canvas = Image.new("RGB", (frame_width, frame_height))
        # Of an odd margin the larger half is above and on the left. Rounding can make a long image
        # a little longer than the frame; then as much is cut off at both ends.
        top, left_edge = -(-(frame_height - height) // 2), -(-(frame_width - width) // 2)
        canvas.paste(image, (left_edge, top))
        return np.ascontiguousarray(np.asarray(canvas).transpose(2, 0, 1))
