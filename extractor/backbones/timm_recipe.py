"""timm's data config as an image recipe."""

from __future__ import annotations

import math
from typing import Any, get_args

from torch import nn

from ..media import ImageRecipe
from ..media.recipe import InterpolationName
from .errors import BackboneError, UnsupportedBackboneError


def image_recipe(
    name: str, model: nn.Module, image_size: int | tuple[int, int] | None
) -> ImageRecipe:
    """What timm's evaluation transform does to an image, with the normalisation left out.

    Args:
        name: Of the backbone.
        model: Of timm.
        image_size: A side to cut out of the centre instead of the model's own; or a height and a
            width that the whole image is brought to.

    Raises:
        UnsupportedBackboneError: The model reads no RGB images, or its transform is another one.
        BackboneError: The image size is too small for anything.
    """
    from timm.data.config import resolve_data_config

    data_config: dict[str, Any] = resolve_data_config({}, model=model)
    channels, *own_size = data_config["input_size"]
    mean, std = data_config["mean"], data_config["std"]
    mode, interpolation = data_config["crop_mode"] or "center", data_config["interpolation"]
    if channels != 3 or len(mean) != 3 or mode not in ("center", "squash"):
        raise UnsupportedBackboneError(
            f"{name}: it reads images of {channels} channels, resized by {mode!r}, needed RGB and "
            "'center' or 'squash'. Choose another backbone."
        )
    if interpolation not in get_args(InterpolationName):
        raise UnsupportedBackboneError(
            f"{name}: its images are resized by {interpolation!r}, needed one of "
            f"{', '.join(get_args(InterpolationName))}. Correct `interpolation` in its config.json."
        )
    size = own_size if image_size is None else _pair(name, image_size)
    height, width = int(size[0]), int(size[1])
    enlarged = [math.floor(side / data_config["crop_pct"]) for side in (height, width)]
    shortest: int | tuple[int, int] | None = enlarged[0]
    if isinstance(image_size, tuple):
        shortest = None
    elif mode == "squash":
        shortest = None if enlarged == [height, width] else (enlarged[0], enlarged[1])
    elif height != width:
        raise UnsupportedBackboneError(
            f"{name}: its images are cut to {height} x {width}, needed a square. Say the height "
            "and width that whole images are brought to with --image-size."
        )
    return ImageRecipe(
        size=(height, width),
        shortest=shortest,
        interpolation=interpolation,
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
    )


def _pair(name: str, image_size: int | tuple[int, int]) -> tuple[int, int]:
    pair = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(pair) < 16:
        raise BackboneError(
            f"{name}: the image size is {image_size!r}, needed 16 pixels or more. Choose another "
            "--image-size."
        )
    return pair
