"""A model's preprocessor_config.json as an image recipe; what has no place in one is an error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..media import ImageRecipe
from ..media.recipe import InterpolationName
from .errors import BackboneError, UnsupportedBackboneError
from .resolve import ResolvedBackbone

# Pillow's numbers, which transformers stores.
_INTERPOLATIONS: dict[int, InterpolationName] = {
    0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming",
}  # fmt: skip
# They say how something is computed, or concern what is not an image: pixels stay the same.
_WITHOUT_EFFECT = frozenset(
    (
        "image_processor_type", "feature_extractor_type", "processor_class", "auto_map",
        "data_format", "input_data_format", "device", "return_tensors", "do_convert_rgb",
        "_valid_processor_keys", "disable_grouping", "image_seq_length", "default_to_square",
    )
)  # fmt: skip
# Processors that take one number as the length of the shorter side, others as both sides.
_NUMBER_IS_SHORTEST = ("CLIP", "ChineseCLIP", "ConvNext")
_CONVNEXT_CUTS_BELOW = 384  # ConvNextImageProcessor: larger sizes are not cut out but squeezed


def load_recipe(
    resolved: ResolvedBackbone, image_size: int | tuple[int, int] | None
) -> ImageRecipe:
    """How a model's images are made.

    Args:
        resolved: The model's files.
        image_size: A side to cut out of the centre instead of the model's own; or a height and a
            width that the whole image is brought to.

    Raises:
        UnsupportedBackboneError: There is no such file, or it asks for something else.
        BackboneError: The image size is too small for anything.
    """
    return resize_recipe(
        resolved.name, recipe_of(resolved.name, read_processor(resolved)), image_size
    )


def read_processor(resolved: ResolvedBackbone) -> dict[str, Any]:
    """The settings of a model's image processor.

    Raises:
        UnsupportedBackboneError: There are none, or they are not a JSON object.
    """
    for path in resolved.processor:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UnsupportedBackboneError(
                f"{path}: is not JSON ({error}). Copy or download the model again."
            ) from error
        # A processor of several parts is saved as one document by transformers 5.
        settings = document.get("image_processor", document)
        if "image_mean" in settings or "do_resize" in settings:
            return dict(settings)
    raise UnsupportedBackboneError(
        f"{resolved.name}: no preprocessor_config.json in {resolved.folder}, needed the size, mean "
        "and deviation of its images. Save it there: "
        "AutoImageProcessor.from_pretrained(MODEL).save_pretrained(FOLDER)."
    )


def recipe_of(name: str, settings: Mapping[str, Any]) -> ImageRecipe:
    """Settings of a transformers image processor as a recipe.

    Raises:
        UnsupportedBackboneError: A field asks for something that a recipe cannot say.
    """
    left = {key: value for key, value in settings.items() if key not in _WITHOUT_EFFECT}
    mean, std = _normalisation(name, left)
    number, is_resized = left.pop("resample", 2), left.pop("do_resize", True)
    size, crop = left.pop("size", None), left.pop("crop_size", None)
    is_cut = left.pop("do_center_crop", False)
    crop_pct = left.pop("crop_pct", None)
    for field, value in left.items():
        if value not in (None, False):
            raise _unknown(name, field, value)
    if not is_resized or not isinstance(size, int | dict):
        raise _unknown(
            name, "do_resize" if not is_resized else "size", size if is_resized else False
        )
    if number not in _INTERPOLATIONS:
        raise _unknown(name, "resample", number)
    kind = str(settings.get("image_processor_type", settings.get("feature_extractor_type", "")))
    shortest = _shortest(name, size, kind)
    sides = None if shortest else _sides(name, "size", size)
    whole, before_cut = _geometry(
        shortest, sides, _sides(name, "crop_size", crop) if is_cut else None, crop_pct
    )
    if whole is None:
        raise _unknown(name, "size", size)
    return ImageRecipe(whole, before_cut, _INTERPOLATIONS[number], mean, std, "down")


def resize_recipe(
    name: str, recipe: ImageRecipe, image_size: int | tuple[int, int] | None
) -> ImageRecipe:
    """The same recipe at another size; a side that is cut out keeps its share of the image."""
    if image_size is None:
        return recipe
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(size) < 16:
        raise BackboneError(
            f"{name}: the image size is {image_size!r}, needed 16 pixels or more. Choose another "
            "--image-size."
        )
    before_cut: int | tuple[int, int] | None = None
    if isinstance(image_size, int):
        scale = image_size / min(recipe.size)
        if isinstance(recipe.shortest, int):
            before_cut = round(recipe.shortest * scale)
        elif recipe.shortest is not None:
            before_cut = (round(recipe.shortest[0] * scale), round(recipe.shortest[1] * scale))
    return replace(recipe, size=size, shortest=before_cut)


def _geometry(
    shortest: int | None,
    sides: tuple[int, int] | None,
    crop: tuple[int, int] | None,
    crop_pct: float | None,
) -> tuple[tuple[int, int] | None, int | tuple[int, int] | None]:
    """Size of the result, and what the image is brought to before the centre is cut out."""
    if shortest is not None and crop_pct is not None:
        if shortest >= _CONVNEXT_CUTS_BELOW:
            return (shortest, shortest), None
        return (shortest, shortest), int(shortest / crop_pct)
    if crop is not None:
        return crop, shortest if shortest is not None else (None if sides == crop else sides)
    return sides, None


def _normalisation(
    name: str, left: dict[str, Any]
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation on a scale of 0 to 1, whatever scale the model's own numbers have."""
    is_scaled, factor = left.pop("do_rescale", True), left.pop("rescale_factor", 1 / 255)
    is_normed = left.pop("do_normalize", True)
    mean, std = left.pop("image_mean", None), left.pop("image_std", None)
    if not is_normed:
        mean, std = [0.0] * 3, [1.0] * 3
    for field, value in (("image_mean", mean), ("image_std", std)):
        if not isinstance(value, list | tuple) or len(value) != 3:
            raise _unknown(name, field, value)
    scale = 255 * (factor if is_scaled else 1)
    return tuple(m / scale for m in mean), tuple(s / scale for s in std)


def _shortest(name: str, size: int | dict[str, Any], kind: str) -> int | None:
    if isinstance(size, int):
        return size if kind.startswith(_NUMBER_IS_SHORTEST) else None
    found = size.get("shortest_edge")
    if found is not None and set(size) != {"shortest_edge"}:
        raise _unknown(name, "size", size)
    return None if found is None else int(found)


def _sides(name: str, field: str, size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    if not isinstance(size, dict) or set(size) != {"height", "width"}:
        raise _unknown(name, field, size)
    return int(size["height"]), int(size["width"])


def _unknown(name: str, field: str, value: object) -> UnsupportedBackboneError:
    return UnsupportedBackboneError(
        f"{name}: preprocessor_config.json says {field}: {value!r}, which is not supported: images "
        "are resized (both sides, or the shorter one), cut in the centre and normalised. Correct "
        "the file, or choose another backbone."
    )
