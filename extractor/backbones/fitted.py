"""Images of free size: their proportions stay, both sides become multiples of a patch.

H height, W width of one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import JsonValue

from ..media import ImageRecipe, ImageSource, View, load_image, view_of
from .base import Sample
from .errors import BackboneError
from .processor import recipe_of

# ViltImageProcessor's limit of the longer side, in shorter sides: that of COCO's detectors.
_LONGEST = 1333 / 800
# Of an ImageRecipe's identity, what holds for images of any size.
_OF_COLOURS = ("interpolation", "mean", "std", "decoding")


@dataclass(frozen=True)
class FittedRecipe:
    """How an image of any proportions becomes pixels.

    Attributes:
        colours: Interpolation, mean and deviation; its size counts only if `is_exact`.
        shorter: Length of the shorter side, where the longer one does not become too long.
        divisor: Both sides are cut to a multiple of it.
        is_exact: Whether all images are brought to the size of `colours` instead.
    """

    colours: ImageRecipe
    shorter: int
    divisor: int
    is_exact: bool = False

    def size(self, height: float, width: float) -> tuple[int, int]:
        """Height and width of the pixels of an image of this size, as ViltImageProcessor's."""
        if self.is_exact:
            return self.colours.size
        scale = self.shorter / min(height, width)
        scaled = (self.shorter, scale * width) if height < width else (scale * height, self.shorter)
        longer = int(_LONGEST * self.shorter)
        shrink = min(1.0, longer / max(scaled))
        first, second = (int(side * shrink + 0.5) // self.divisor for side in scaled)
        return max(1, first) * self.divisor, max(1, second) * self.divisor

    def size_of(self, sample: Sample, whole: tuple[int, int]) -> tuple[int, int]:
        """The same for what a sample shows of an image of this height and width."""
        return self.size(*_part(*whole, view_of(sample)))

    def pixels(self, sample: Sample, source: ImageSource) -> np.ndarray:
        """(3, H, W) uint8 of a sample's image, or of a view of it."""
        image = load_image(source)
        size = self.size_of(sample, (image.height, image.width))
        return replace(self.colours, size=size, shortest=None).pixels(image, view_of(sample))

    @property
    def identity(self) -> dict[str, JsonValue]:
        """For a cache's fingerprint."""
        sizes: dict[str, JsonValue] = {"shorter": self.shorter, "divisor": self.divisor}
        if self.is_exact:
            sizes = {"size": list(self.colours.size)}
        of_colours = self.colours.identity
        return {**sizes, **{key: of_colours[key] for key in _OF_COLOURS}}


def fitted_recipe(
    name: str, settings: Mapping[str, Any], patch: int, chosen: int | tuple[int, int] | None
) -> FittedRecipe:
    """A processor's settings, at its own or another size.

    Args:
        name: Of the backbone.
        settings: Of its preprocessor_config.json.
        patch: Pixels of a patch.
        chosen: The shorter side, or a height and a width that every image is brought to.

    Raises:
        UnsupportedBackboneError: A field asks for something that is not supported.
        BackboneError: The chosen size is no multiple of a patch.
    """
    left = {key: value for key, value in settings.items() if key not in ("size_divisor", "do_pad")}
    size = left.pop("size", {"shortest_edge": 384})
    shorter = size.get("shortest_edge", 384) if isinstance(size, dict) else size
    wanted = shorter if chosen is None else chosen
    sides = (wanted, wanted) if isinstance(wanted, int) else wanted
    if any(side % patch or side < patch for side in sides):
        raise BackboneError(
            f"{name}: the image size is {wanted!r}, needed multiples of its patches of {patch} "
            "pixels. Choose another --image-size."
        )
    colours = recipe_of(name, {**left, "size": {"height": sides[0], "width": sides[1]}})
    divisor = int(settings.get("size_divisor") or patch)
    return FittedRecipe(colours, min(sides), divisor, isinstance(chosen, tuple))


def _part(height: int, width: int, view: View | None) -> tuple[float, float]:
    if view is None:
        return height, width
    left, upper, right, lower = view.box
    return (lower - upper) * height, (right - left) * width
