"""A model's image processor becomes a recipe that gives the library's own pixels, or an error."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import library_pixels, picture
from tiny_library import save_tiny_vision

from extractor import BackboneConfig, load_backbone, resolve_backbone
from extractor.backbones import BackboneError, UnsupportedBackboneError
from extractor.backbones.processor import load_recipe, recipe_of
from extractor.media import ImageRecipe, load_image

COLOURS = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "do_normalize": True}
PROCESSORS: dict[str, dict[str, Any]] = {
    "vit": {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 24, "width": 32},
        "resample": 2,
    },
    "vit, as saved long ago": {
        "feature_extractor_type": "ViTFeatureExtractor",
        "size": 24,
        "resample": 2,
    },
    "clip": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 28},
        "do_center_crop": True,
        "crop_size": {"height": 24, "width": 24},
        "resample": 3,
    },
    "clip, as saved long ago": {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": 24,
        "do_center_crop": True,
        "crop_size": 24,
        "resample": 3,
    },
    "deit": {
        "image_processor_type": "DeiTImageProcessor",
        "size": {"height": 28, "width": 28},
        "do_center_crop": True,
        "crop_size": {"height": 24, "width": 24},
        "resample": 3,
    },
    "convnext": {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 24},
        "crop_pct": 0.875,
        "resample": 3,
    },
    "convnext, large": {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 384},
        "crop_pct": 1.0,
        "resample": 3,
    },
    "siglip": {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 24, "width": 24},
        "resample": 3,
    },
    "beit, whose numbers are of another scale": {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 24, "width": 24},
        "resample": 2,
        "rescale_factor": 2 / 255,
    },
}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vision(tmp_path_factory.mktemp("processor") / "vit", "vit")


@pytest.mark.parametrize("kind", PROCESSORS)
@pytest.mark.parametrize("size", [(50, 40), (33, 61), (24, 24)])
def test_pixels_are_those_of_the_library(tmp_path, kind, size) -> None:
    settings = {**COLOURS, **PROCESSORS[kind]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text("{}")
    recipe = recipe_of(kind, settings)
    image = picture(4, size)

    pixels = recipe.normalise(torch.from_numpy(recipe.pixels(load_image(image))), torch.float32)

    torch.testing.assert_close(pixels, library_pixels(tmp_path, image)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"do_pad": True}, r"do_pad: True, which is not supported"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order"),
        ({"size": {"longest_edge": 24}}, "size: {'longest_edge': 24}"),
        ({"size": {"shortest_edge": 24}}, "size: {'shortest_edge': 24}"),
        ({"image_mean": [0.5]}, r"image_mean: \[0\.5\]"),
        ({"resample": 9}, "resample: 9"),
        ({"do_resize": False}, "do_resize: False"),
    ],
)
def test_what_a_recipe_cannot_say_is_named(change, words) -> None:
    """An ignored setting would give states of images that the model never saw."""
    with pytest.raises(UnsupportedBackboneError, match=words):
        recipe_of("mine", {**COLOURS, **PROCESSORS["vit"], **change})


def test_a_model_without_a_processor_says_how_to_get_one(vit, tmp_path) -> None:
    folder = shutil.copytree(vit, tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()

    with pytest.raises(UnsupportedBackboneError, match=r"no preprocessor_config\.json .*Save it"):
        load_backbone(BackboneConfig(name=str(folder)), "cpu")


def test_the_document_of_a_whole_processor_is_read_too(vit, tmp_path) -> None:
    """transformers 5 saves the image processor of CLIP inside processor_config.json."""
    folder = shutil.copytree(vit, tmp_path / "model")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    whole = {"processor_class": "CLIPProcessor", "image_processor": settings}
    (folder / "processor_config.json").write_text(json.dumps(whole))

    found = load_recipe(resolve_backbone(BackboneConfig(name=str(folder))), None)

    assert found == load_recipe(resolve_backbone(BackboneConfig(name=str(vit))), None)


@pytest.mark.parametrize(
    ("kind", "chosen", "size", "shortest"),
    [
        ("clip", None, (24, 24), 28),
        ("clip", 48, (48, 48), 56),
        ("clip", (48, 32), (48, 32), None),
        ("deit", 48, (48, 48), (56, 56)),
        ("siglip", 48, (48, 48), None),
    ],
)
def test_another_size_keeps_the_share_that_is_cut_out(vit, kind, chosen, size, shortest) -> None:
    from extractor.backbones.processor import resize_recipe

    recipe = resize_recipe("a", recipe_of("a", {**COLOURS, **PROCESSORS[kind]}), chosen)

    assert isinstance(recipe, ImageRecipe)
    assert (recipe.size, recipe.shortest) == (size, shortest)


def test_the_stamp_and_the_identity_follow_the_processor(vit, tmp_path) -> None:
    folder = shutil.copytree(vit, tmp_path / "model")
    config = BackboneConfig(name=str(folder))
    stamp, identity = resolve_backbone(config).stamp(), load_backbone(config, "cpu").identity
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "image_mean": [0.1, 0.1, 0.1]}))

    changed = load_backbone(config, "cpu").identity

    assert resolve_backbone(config).stamp() != stamp
    assert {key for key in identity if identity[key] != changed[key]} == {"image"}


def test_a_size_too_small_for_anything_is_refused(vit) -> None:
    with pytest.raises(BackboneError, match="the image size is 8, needed 16 pixels or more"):
        load_backbone(BackboneConfig(name=str(vit), image_size=8), "cpu")
