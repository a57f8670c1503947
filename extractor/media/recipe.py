"""How an image becomes a backbone's pixels: resize, crop, and later normalise on the device.

B images, H height, W width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import JsonValue
from torch import Tensor

from ..rgb import DECODING

InterpolationName = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


@dataclass(frozen=True)
class View:
    """An augmented view of an image.

    Attributes:
        box: Left, upper, right, lower edge of the part that is seen, as shares of the image.
        is_flipped: Whether left and right are swapped.
    """

    box: tuple[float, float, float, float]
    is_flipped: bool


@dataclass(frozen=True)
class ImageRecipe:
    """Every number that decides how an image looks to a backbone.

    Attributes:
        size: (height, width) of the result.
        shortest: Length that the shorter side is brought to before the centre is cut out; a
            (height, width) to bring both sides there first, whatever the image's proportions;
            None to bring both sides to `size` at once.
        interpolation: Pillow's, which averages where it makes smaller.
        mean: Of each channel, on a scale of 0 to 1.
        std: Of each channel, on the same scale.
        halves: What becomes of half a pixel when the centre is cut out: rounded to even as
            torchvision does, or down as transformers does.
    """

    size: tuple[int, int]
    shortest: int | tuple[int, int] | None
    interpolation: InterpolationName
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    halves: Literal["rounded", "down"] = "rounded"

    def pixels(self, image: Image.Image, view: View | None = None) -> np.ndarray:
        """(3, H, W) uint8 of an RGB image; of an augmented view of it if one is given."""
        height, width = self.size
        resample = Image.Resampling[self.interpolation.upper()]
        if view is not None:
            left, upper, right, lower = view.box
            box = (
                left * image.width, upper * image.height,
                right * image.width, lower * image.height,
            )  # fmt: skip
            image = image.resize((width, height), resample, box=box)
            if view.is_flipped:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        elif self.shortest is None:
            image = image.resize((width, height), resample)
        elif isinstance(self.shortest, tuple):
            image = self._cut_centre(image.resize(self.shortest[::-1], resample))
        else:
            image = self._cut_centre(_bring_shorter_side_to(image, self.shortest, resample))
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def normalise(self, pixels_B3HW: Tensor, dtype: torch.dtype) -> Tensor:
        """uint8 pixels as the backbone's numbers, on the device that they are on."""
        shape = (3, 1, 1)
        mean = torch.tensor(self.mean, device=pixels_B3HW.device).mul(255).view(shape)
        std = torch.tensor(self.std, device=pixels_B3HW.device).mul(255).view(shape)
        return ((pixels_B3HW.float() - mean) / std).to(dtype)

    @property
    def identity(self) -> dict[str, JsonValue]:
        """For a cache's fingerprint."""
        return {
            "size": list(self.size),
            "shortest": list(self.shortest) if isinstance(self.shortest, tuple) else self.shortest,
            "interpolation": f"pillow {self.interpolation}",
            "mean": list(self.mean),
            "std": list(self.std),
            "halves": self.halves,
            "decoding": DECODING,
        }

    def _cut_centre(self, image: Image.Image) -> Image.Image:
        """The centre, with black around it where the image is smaller."""
        height, width = self.size
        whole = round if self.halves == "rounded" else math.floor
        left, upper = whole((image.width - width) / 2), whole((image.height - height) / 2)
        return image.crop((left, upper, left + width, upper + height))


def _bring_shorter_side_to(
    image: Image.Image, length: int, resample: Image.Resampling
) -> Image.Image:
    shorter = min(image.size)
    # The longer side is cut to whole pixels, as torchvision does.
    width, height = (
        length if side == shorter else int(length * side / shorter) for side in image.size
    )
    return image if (width, height) == image.size else image.resize((width, height), resample)
