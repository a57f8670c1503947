"""timm models give their own states, every token of them, for their own view of an image."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_models import TIMM, save_tiny_timm

from extractor import BackboneConfig, load_backbone
from extractor.backbones import BackboneError, UnknownBackboneError, UnsupportedBackboneError
from extractor.backbones.timm_names import with_tag
from extractor.media import ImageRecipe, draw_view

# Float32 sums in another order; the states are of size 1 to 100.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def picture(seed: int, size: tuple[int, int] = (90, 70)) -> bytes:
    """A smooth random photo as PNG bytes; size is width and height."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


SAMPLES = [
    {"id": 0, "view": 0, "image": picture(0)},
    {"id": 1, "view": 0, "image": picture(1, (64, 110))},
]


@pytest.fixture(scope="session")
def tiny_timm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny timm model, made once per session."""
    root = tmp_path_factory.mktemp("timm")

    def make(kind: str) -> Path:
        folder = root / kind.replace(" ", "-")
        return folder if folder.exists() else save_tiny_timm(folder, kind)

    return make


def load(folder: Path, **choices: Any) -> Any:
    return load_backbone(BackboneConfig(name=str(folder), **choices), "cpu")


def run(backbone: Any, samples: list[dict[str, Any]] = SAMPLES) -> Any:
    return backbone.run(backbone.prepare(samples), range(len(samples)))


def library_model(folder: Path, **options: Any) -> tuple[Any, torch.Tensor]:
    """timm's model of this folder, and the images as timm's own transform gives them."""
    import timm
    from timm.data import create_transform, resolve_data_config

    document = json.loads((folder / "config.json").read_text())
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, **options).eval()
    settings = resolve_data_config({}, model=model)
    assert settings["crop_pct"] == 0.8
    assert document["pretrained_cfg"]["tag"] == "tiny"
    transform = create_transform(**settings, is_training=False)
    images = [Image.open(io.BytesIO(s["image"])).convert("RGB") for s in SAMPLES]
    return model, torch.stack([transform(image) for image in images])


def as_rows(output: torch.Tensor, width: int) -> torch.Tensor:
    """A module's output as (rows of all images, width), whatever its layout."""
    if output.dim() == 4 and output.shape[1] == width:
        output = output.flatten(2).transpose(1, 2)
    return output.reshape(-1, width)


@pytest.mark.parametrize("kind", TIMM)
def test_each_layer_is_the_output_of_the_module_it_names(tiny_timm, kind) -> None:
    """Also proves the recipe and the weights: the other side is timm's transform and loading."""
    folder = tiny_timm(kind)
    backbone = load(folder)
    model, images = library_model(folder)
    seen: dict[str, torch.Tensor] = {}
    modules = dict(model.named_modules())
    for stream in backbone.streams:
        for layer in stream.layers:
            path, _, is_input = layer.module.partition(":")
            if is_input:
                modules[path].register_forward_pre_hook(
                    lambda module, args, name=layer.module: seen.update({name: args[0]})
                )
            else:
                modules[path].register_forward_hook(
                    lambda module, args, output, name=layer.module: seen.update({name: output})
                )
    with torch.no_grad():
        model(images)

    batch = run(backbone)

    for stream in backbone.streams:
        for position, layer in enumerate(stream.layers):
            found = batch.streams[stream.name].values[:, position]
            torch.testing.assert_close(found, as_rows(seen[layer.module], stream.width), **CLOSE)


@pytest.mark.parametrize("kind", TIMM)
def test_the_anchor_is_what_the_models_head_reads(tiny_timm, kind) -> None:
    folder = tiny_timm(kind)
    backbone = load(folder)
    model, images = library_model(folder)

    values = run(backbone).streams[backbone.streams[-1].name].values

    with torch.no_grad():
        expected = as_rows(model.forward_features(images), backbone.streams[-1].width)
    torch.testing.assert_close(values[:, -1], expected, **CLOSE)


@pytest.mark.parametrize("kind", TIMM)
def test_every_token_and_every_map_is_kept(tiny_timm, kind) -> None:
    backbone = load(tiny_timm(kind))
    made = TIMM[kind]

    prepared = backbone.prepare(SAMPLES)

    assert {
        s.name: (int(prepared.lengths[s.name][0]), s.width, len(s.layers)) for s in backbone.streams
    } == made.streams
    assert [
        layer.final_norm for stream in backbone.streams for layer in stream.layers
    ] == made.final_norms
    for stream in backbone.streams:
        assert stream.axes == (("height", "width") if stream.name.startswith("stage") else ())
        if stream.axes:
            grid = prepared.grids[stream.name]
            assert (grid.prod(axis=1) == prepared.lengths[stream.name]).all()


def test_layers_count_from_the_embeddings_of_a_vit_and_from_1_in_a_cnn(tiny_timm) -> None:
    vit, cnn = load(tiny_timm("class token")), load(tiny_timm("resnet"))

    assert [layer.index for layer in vit.streams[0].layers] == [0, 1, 2]
    assert [layer.index for stream in cnn.streams for layer in stream.layers] == [1, 2, 3, 4]


def test_chosen_layers_are_those_of_the_whole_run(tiny_timm) -> None:
    vit, cnn = tiny_timm("class token"), tiny_timm("resnet")

    few, some = load(vit, layers=(0,)), load(cnn, layers=(2,))

    assert [layer.index for layer in few.streams[0].layers] == [0, 2]
    whole = run(load(vit)).streams["tokens"].values
    assert torch.equal(run(few).streams["tokens"].values, whole[:, [0, 2]])
    assert [stream.name for stream in some.streams] == ["stage2", "stage4"]
    assert torch.equal(run(some).streams["stage2"].values, run(load(cnn)).streams["stage2"].values)


def test_a_video_is_its_frames_one_after_the_other(tiny_timm) -> None:
    frames = [picture(seed) for seed in range(3)]
    images = [{"id": 0, "view": 0, "image": frame} for frame in frames]
    video = [{"id": 0, "view": 0, "video": frames}]
    for kind, axes in (
        ("class token", ("frames", "tokens")),
        ("resnet", ("frames", "height", "width")),
    ):
        folder = tiny_timm(kind)
        backbone = load(folder, frames=3)

        batch = run(backbone, video)

        for name, found in run(load(folder), images).streams.items():
            torch.testing.assert_close(batch.streams[name].values, found.values, **CLOSE)
            assert batch.streams[name].layout.lengths.tolist() == [len(found.values)]
            assert batch.streams[name].grid.prod() == len(found.values)
        assert {stream.axes for stream in backbone.streams} == {axes}


def test_an_unreadable_image_is_named_and_leaves_the_others_alone(tiny_timm, tmp_path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(picture(3)[:60])
    samples = [SAMPLES[0], {"id": 5, "view": 0, "image": str(broken)}, SAMPLES[1]]
    backbone = load(tiny_timm("class token"))

    prepared = backbone.prepare(samples)

    assert list(prepared.failures) == [1]
    assert "broken.png" in prepared.failures[1]
    assert prepared.lengths["tokens"].tolist() == [5, 0, 5]
    found = backbone.run(prepared, [2, 0]).streams["tokens"].values
    assert torch.equal(
        found, backbone.run(backbone.prepare(SAMPLES), [1, 0]).streams["tokens"].values
    )


def test_measuring_tells_rows_and_missing_files_without_decoding(tiny_timm, tmp_path) -> None:
    header = tmp_path / "header.png"
    header.write_bytes(picture(3)[:60])
    samples = [
        {"id": 0, "view": 0, "image": str(header)},
        {"id": 1, "view": 0, "image": str(tmp_path / "missing.png")},
    ]

    measured = load(tiny_timm("resnet")).measure(samples)

    assert list(measured.failures) == [1]
    assert "there is no such file" in measured.failures[1]
    assert measured.lengths["stage1"].tolist() == [256, 0]


def test_a_view_shows_the_part_that_was_drawn_for_it(tiny_timm) -> None:
    backbone = load(tiny_timm("resnet"))
    viewed = [{**SAMPLES[0], "id": 9, "view": 1}]

    pixels = backbone.prepare(viewed).inputs["pixels"][0]

    image = Image.open(io.BytesIO(picture(0))).convert("RGB")
    recipe = ImageRecipe((64, 64), 80, "bicubic", (0.5,) * 3, (0.2,) * 3)
    assert np.array_equal(pixels, recipe.pixels(image, draw_view(9, 1)))
    assert not np.array_equal(pixels, recipe.pixels(image))


def test_another_image_size_interpolates_positions_as_timm_does(tiny_timm) -> None:
    import timm

    folder = tiny_timm("class token")
    backbone = load(folder, image_size=(64, 48))
    image = Image.open(io.BytesIO(picture(0))).convert("RGB").resize((48, 64), 3)
    pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    normalised = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, img_size=(64, 48)).eval()

    found = run(backbone, SAMPLES[:1]).streams["tokens"].values

    assert found.shape == (1 + 4 * 3, 3, 192)
    with torch.no_grad():
        torch.testing.assert_close(found[:, -1], model.forward_features(normalised)[0], **CLOSE)


def test_one_image_size_keeps_the_models_crop(tiny_timm) -> None:
    backbone = load(tiny_timm("resnet"), image_size=96)

    assert backbone.identity["image"]["size"] == [96, 96]
    assert backbone.identity["image"]["shortest"] == 120
    assert backbone.prepare(SAMPLES).grids["stage1"].tolist() == [[24, 24]] * 2


def test_the_manifests_options_load_the_same_backbone_again(tiny_timm) -> None:
    backbone = load(tiny_timm("resnet"), image_size=(64, 96), layers=(2, 4), precision="bfloat16")

    again = load_backbone(BackboneConfig.from_spec(backbone.spec), "cpu")

    assert again.identity == backbone.identity
    assert again.streams == backbone.streams
    assert torch.equal(run(again).streams["stage4"].values, run(backbone).streams["stage4"].values)
    assert run(again).streams["stage4"].values.dtype == torch.bfloat16


def test_the_tag_and_the_recipe_are_part_of_what_a_cache_is(tiny_timm, tmp_path) -> None:
    import shutil

    folder = shutil.copytree(tiny_timm("resnet"), tmp_path / "model")
    before = load(folder).identity
    document = json.loads((folder / "config.json").read_text())
    document["pretrained_cfg"] |= {"tag": "other", "crop_pct": 1.0, "interpolation": "bilinear"}
    (folder / "config.json").write_text(json.dumps(document))

    after = load(folder).identity

    assert (before["tag"], after["tag"]) == ("tiny", "other")
    assert after["image"] == {
        **before["image"],
        "shortest": 64,
        "interpolation": "pillow bilinear",
    }
    assert after["weights"] == before["weights"]


def test_a_folder_of_an_older_timm_is_read(tiny_timm, tmp_path) -> None:
    """They have the settings of pretrained_cfg beside the architecture."""
    import shutil

    folder = shutil.copytree(tiny_timm("regnet"), tmp_path / "model")
    document = json.loads((folder / "config.json").read_text())
    old = {"architecture": document["architecture"], "num_features": 368}
    (folder / "config.json").write_text(json.dumps({**document["pretrained_cfg"], **old}))

    found, expected = load(folder), load(tiny_timm("regnet"))

    assert found.identity["image"] == expected.identity["image"]
    assert found.identity["tag"] == "tiny"
    assert torch.equal(run(found).streams["stage4"].values, run(expected).streams["stage4"].values)


def test_a_squashing_transform_is_followed(tiny_timm, tmp_path) -> None:
    import shutil

    folder = shutil.copytree(tiny_timm("resnet"), tmp_path / "model")
    document = json.loads((folder / "config.json").read_text())
    document["pretrained_cfg"]["crop_mode"] = "squash"
    (folder / "config.json").write_text(json.dumps(document))
    _, expected = library_model(folder)
    backbone = load(folder)

    pixels = backbone.prepare(SAMPLES).inputs["pixels"]

    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
    found = (torch.from_numpy(pixels) / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_what_timm_cannot_build_or_run_is_said_in_one_line(tiny_timm, tmp_path) -> None:
    import shutil

    folder = shutil.copytree(tiny_timm("resnet"), tmp_path / "model")
    document = json.loads((folder / "config.json").read_text())
    unknown = {**document, "architecture": "resnet18x"}
    (folder / "config.json").write_text(json.dumps(unknown))
    with pytest.raises(UnsupportedBackboneError, match=r"resnet18x.*Install a newer timm"):
        load(folder)

    other = {**document, "architecture": "resnet26"}
    (folder / "config.json").write_text(json.dumps(other))
    with pytest.raises(UnsupportedBackboneError, match="cannot be loaded from"):
        load(folder)

    grey = {**document, "model_args": {**document["model_args"], "in_chans": 1}}
    (folder / "config.json").write_text(json.dumps(grey))
    with pytest.raises(UnsupportedBackboneError):
        load(folder)


def test_settings_that_do_not_fit_are_refused(tiny_timm) -> None:
    with pytest.raises(BackboneError, match="layers \\[7\\] were asked for"):
        load(tiny_timm("resnet"), layers=(7,))
    with pytest.raises(BackboneError, match="image size is 8"):
        load(tiny_timm("resnet"), image_size=8)
    with pytest.raises(BackboneError, match="sample 0: image is NoneType"):
        load(tiny_timm("resnet")).prepare([{"id": 0, "view": 0, "text": "no image"}])


def test_a_name_without_a_tag_means_timms_default_weights() -> None:
    assert with_tag("timm/resnet50") == "timm/resnet50.a1_in1k"
    assert with_tag("timm/resnet50.tv_in1k") == "timm/resnet50.tv_in1k"
    assert with_tag("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"
    with pytest.raises(UnknownBackboneError, match="Did you mean 'timm/resnet50'"):
        with_tag("timm/resnet5o")
