"""Vision models and dual encoders give the library's own states, token for token."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import PICTURES, library_pixels
from tiny_library import MAPS, VISION, save_tiny_vision

from extractor import BackboneConfig, load_backbone
from extractor.backbones import BackboneError, UnsupportedBackboneError

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


SAMPLES = [{"id": i, "view": 0, "image": image} for i, image in enumerate(PICTURES)]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny model of a family, made once per session."""
    root = tmp_path_factory.mktemp("vision")

    def make(family: str) -> Path:
        folder = root / family
        return folder if folder.exists() else save_tiny_vision(folder, family)

    return make


def load(folder: Path, **choices: Any) -> Any:
    return load_backbone(BackboneConfig(name=str(folder), **choices), "cpu")


def run(backbone: Any, samples: list[dict[str, Any]] = SAMPLES) -> dict[str, Any]:
    prepared = backbone.prepare(samples)
    return backbone.run(prepared, range(len(samples))).streams


def library(folder: Path, image: bytes, **options: Any) -> Any:
    """One image through the library's own processor and model."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        return model(library_pixels(folder, image), output_hidden_states=True, **options)


def library_maps(folder: Path, image: bytes) -> list[torch.Tensor]:
    """The stages' maps (1, D, H, W); Swin's before each is halved for the next stage."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder)
    pixels = library_pixels(folder, image)
    with torch.no_grad():
        if not hasattr(model.config, "window_size"):
            return list(model(pixels, output_hidden_states=True).hidden_states[1:])
        outputs = model.encoder(
            *model.embeddings(pixels),
            output_hidden_states=True,
            output_hidden_states_before_downsampling=True,
        )
        return list(outputs.reshaped_hidden_states[1:])


@pytest.mark.parametrize("family", VISION)
def test_a_vision_transformer_gives_every_token_of_every_layer(tiny, family) -> None:
    folder = tiny(family)

    backbone = load(folder)
    stream = run(backbone)["tokens"]

    made = VISION[family]
    num_tokens = 16 + made.first_tokens
    assert stream.layout.lengths.tolist() == [num_tokens] * 3
    for at, image in enumerate(PICTURES):
        outputs = library(folder, image)
        found = stream.values[at * num_tokens : (at + 1) * num_tokens]
        expected = torch.stack([*outputs.hidden_states[:-1], outputs.last_hidden_state], dim=2)[0]
        torch.testing.assert_close(found, expected, **CLOSE)
    norms = [layer.final_norm for layer in backbone.streams[0].layers]
    assert norms == [None if made.final_norm is None else False] * 3 + [made.final_norm]


@pytest.mark.parametrize("family", MAPS)
def test_a_model_of_maps_gives_the_last_map_of_every_size(tiny, family) -> None:
    """Pre-interaction of UniPT's CNNs relies on maps that halve from stage to stage."""
    folder = tiny(family)

    backbone = load(folder)
    streams = run(backbone)

    num_stages = 3 if family.startswith("swin") else 4
    assert list(streams) == [f"stage{stage}" for stage in range(1, num_stages + 1)]
    assert all(stream.axes == ("height", "width") for stream in backbone.streams)
    for at, image in enumerate(PICTURES):
        maps = library_maps(folder, image)
        for stage, (stream, expected) in enumerate(zip(streams.values(), maps, strict=True), 1):
            height, width = expected.shape[2:]
            assert stream.grid.tolist() == [[height, width]] * 3
            rows = expected.flatten(2).transpose(1, 2)
            if stage == num_stages:
                last = library(folder, image).last_hidden_state
                rows = last.flatten(2).transpose(1, 2) if last.dim() == 4 else last
                rows = rows[:, -height * width :]
            found = stream.values[at * height * width : (at + 1) * height * width, 0]
            torch.testing.assert_close(found, rows[0], **CLOSE)
    last_norm = MAPS[family].final_norm
    norms = [layer.final_norm for stream in backbone.streams for layer in stream.layers]
    assert norms == [None if last_norm is None else False] * (num_stages - 1) + [last_norm]


@pytest.mark.parametrize(
    ("family", "modules"),
    [
        ("vit", ["embeddings", "layers.0", "layers.1", "layernorm"]),
        ("resnet", [f"encoder.stages.{stage}" for stage in range(4)]),
        ("convnext", [f"encoder.stages.{stage}" for stage in range(4)]),
        ("swin", ["encoder.layers.0.blocks.0", "encoder.layers.1.blocks.1", "layernorm"]),
    ],
)
def test_layers_are_named_by_the_modules_they_come_from(tiny, family, modules) -> None:
    layers = [layer for stream in load(tiny(family)).streams for layer in stream.layers]

    assert [layer.module for layer in layers] == modules


@pytest.mark.parametrize("family", [*VISION, *MAPS])
def test_an_image_does_not_feel_its_batch_and_a_second_run_is_the_same(tiny, family) -> None:
    backbone = load(tiny(family))

    batch, again = run(backbone), run(backbone)

    alone = run(backbone, SAMPLES[1:2])
    for name, stream in batch.items():
        assert torch.equal(stream.values, again[name].values)
        rows = len(alone[name].values)
        torch.testing.assert_close(stream.values[rows : 2 * rows], alone[name].values, **CLOSE)


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2", "dinov3_vit", "clip_vision_model"])
def test_another_image_size_is_read_as_the_library_interpolates_it(tiny, family) -> None:
    import inspect

    from transformers import AutoModel

    folder = tiny(family)
    backbone = load(folder, image_size=(48, 40))

    stream = run(backbone)["tokens"]

    prepared = backbone.prepare(SAMPLES)
    pixels = backbone._reader.recipe.normalise(
        torch.from_numpy(prepared.inputs["pixels"]), torch.float32
    )
    model = AutoModel.from_pretrained(folder)
    takes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    with torch.no_grad():
        outputs = model(pixels, **({"interpolate_pos_encoding": True} if takes else {}))
    num_tokens = 6 * 5 + VISION[family].first_tokens
    assert stream.layout.lengths.tolist() == [num_tokens] * 3
    found = stream.values[:, -1].unflatten(0, (3, num_tokens))
    torch.testing.assert_close(found, outputs.last_hidden_state, **CLOSE)
    own, other = load(folder).identity, backbone.identity
    assert {key for key in own if own[key] != other[key]} == {"image"}


def test_a_size_that_the_model_does_not_take_is_refused(tiny) -> None:
    with pytest.raises(BackboneError, match="multiples of its patches of 8"):
        load(tiny("vit"), image_size=33)


def test_maps_of_a_video_are_those_of_its_frames(tiny) -> None:
    backbone = load(tiny("resnet"), frames=2)

    streams = run(backbone, [{"id": 0, "view": 0, "video": PICTURES[1:]}])

    expected = run(load(tiny("resnet")), SAMPLES[1:])
    assert backbone.streams[0].axes == ("frames", "height", "width")
    assert streams["stage1"].grid.tolist() == [[2, 8, 8]]
    for name in streams:
        torch.testing.assert_close(streams[name].values, expected[name].values, **CLOSE)


def test_chosen_stages_are_stored_with_the_last(tiny) -> None:
    first = load(tiny("convnext"), layers=(2,), image_size=64)

    again = load_backbone(BackboneConfig.from_spec(first.spec), "cpu")

    assert [stream.name for stream in first.streams] == ["stage2", "stage4"]
    assert again.identity == first.identity
    assert again.streams == first.streams
    assert torch.equal(run(first)["stage2"].values, run(again)["stage2"].values)


def test_a_classifiers_checkpoint_gives_the_models_own_states(tiny, tmp_path) -> None:
    """Most vision checkpoints are classifiers, and many lack the pooler."""
    from transformers import ViTForImageClassification

    folder = shutil.copytree(tiny("vit"), tmp_path / "model")
    (folder / "model.safetensors").unlink()
    ViTForImageClassification.from_pretrained(tiny("vit")).save_pretrained(folder)

    found = run(load(folder))["tokens"].values

    assert torch.equal(found, run(load(tiny("vit")))["tokens"].values)


def test_a_vision_family_that_is_not_listed_is_checked_and_read(tmp_path) -> None:
    """ViT-MSN here; ViT-MAE hides random patches, which the check finds out."""
    from tiny_library import save_tiny_vision

    msn = load(save_tiny_vision(tmp_path / "msn", "vit_msn"))

    assert [layer.final_norm for layer in msn.streams[0].layers] == [False] * 3 + [True]
    with pytest.raises(UnsupportedBackboneError):
        load(save_tiny_vision(tmp_path / "mae", "vit_mae"))
