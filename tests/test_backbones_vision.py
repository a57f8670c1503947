"""Vision models and dual encoders give the library's own states, token for token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_images import PICTURES, library_pixels
from tiny_library import MAPS, VISION, save_tiny_vision

from extractor import BackboneConfig, load_backbone

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
