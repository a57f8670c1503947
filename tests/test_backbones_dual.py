"""CLIP and SigLIP: each tower's hidden states, and the embedding they are compared by."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_kinds.backbones import _image_tower, _text_tower
from golden_kinds.base import GoldenFile
from tiny_images import PICTURES, library_pixels, picture
from tiny_library import save_tiny_dual
from tiny_models import MAX_POSITIONS, TEXTS

from extractor import BackboneConfig, load_backbone
from extractor.backbones import BackboneError, modality_read
from extractor.backbones.dual import Tower

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
FAMILIES = ["clip", "siglip"]
IMAGES = [{"id": i, "view": 0, "image": image} for i, image in enumerate(PICTURES)]
SAMPLES = [{"text": text} for text in TEXTS]
GOLDEN = Path(__file__).parent / "golden" / "clip4clip_backbone_taps.npz"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny model of a family, made once per session."""
    root = tmp_path_factory.mktemp("dual")

    def make(family: str) -> Path:
        folder = root / family
        return folder if folder.exists() else save_tiny_dual(folder, family)

    return make


def load(folder: Path, modality: str, **choices: Any) -> Any:
    return load_backbone(BackboneConfig(name=str(folder), modality=modality, **choices), "cpu")


def run(backbone: Any, samples: list[dict[str, Any]]) -> dict[str, Any]:
    return backbone.run(backbone.prepare(samples), range(len(samples))).streams


def library(folder: Path) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder)


def test_the_towers_give_what_clip4clip_taps() -> None:
    """States without final norm, text without a mask, and the projected token as the anchor."""
    golden = GoldenFile.load(GOLDEN)
    params = golden.parameters()
    text, image = _text_tower(golden, params), _image_tower(golden, params)

    with torch.no_grad():
        texts = Tower(text.text_model, text.text_projection)(input_ids=golden.tensor("input_ids"))
        images = Tower(image.vision_model, image.visual_projection)(
            pixel_values=golden.tensor("images")
        )

    for name, found in (("text", texts), ("image", images)):
        states = torch.from_numpy(golden.outputs[f"{name}_hidden_states"])
        anchor = torch.from_numpy(golden.outputs[f"{name}_raw_anchor"])
        torch.testing.assert_close(torch.stack(found["tokens"]), states, rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(found["embedding"][0][:, 0], anchor, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_vision_tower_gives_tokens_and_embedding(tiny, family) -> None:
    folder = tiny(family)
    model = library(folder)

    backbone = load(folder, "image")
    streams = run(backbone, IMAGES)

    pixels = torch.cat([library_pixels(folder, image) for image in PICTURES])
    with torch.no_grad():
        outputs = model.vision_model(pixels, output_hidden_states=True)
        embedding = model.get_image_features(pixels).pooler_output
    expected = torch.stack(outputs.hidden_states, dim=2)
    assert list(streams) == ["tokens", "embedding"]
    assert expected.shape[1] == (17 if family == "clip" else 16)
    torch.testing.assert_close(streams["tokens"].values, expected.flatten(0, 1), **CLOSE)
    torch.testing.assert_close(streams["embedding"].values[:, 0], embedding, **CLOSE)
    tokens, last = backbone.streams
    assert [layer.final_norm for layer in tokens.layers] == [False] * 4
    assert [(layer.index, layer.final_norm) for layer in last.layers] == [(4, True)]
    assert last.layers[0].module == (
        "visual_projection" if family == "clip" else "vision_model.head"
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_tower_gives_tokens_and_embedding(tiny, family) -> None:
    """One text at a time: CLIP's unpadded, SigLIP's padded to its maximum as it was trained."""
    from transformers import AutoTokenizer

    folder = tiny(family)
    model, tokenizer = library(folder), AutoTokenizer.from_pretrained(folder)
    padding = {"padding": "max_length"} if family == "siglip" else {}

    backbone = load(folder, "text")
    streams = run(backbone, SAMPLES)

    start = 0
    for row, text in enumerate(TEXTS):
        inputs = tokenizer(text, return_tensors="pt", **padding)
        with torch.no_grad():
            outputs = model.text_model(inputs["input_ids"], output_hidden_states=True)
            embedding = model.get_text_features(inputs["input_ids"]).pooler_output
        expected = torch.stack(outputs.hidden_states, dim=2)[0]
        found = streams["tokens"].values[start : start + len(expected)]
        torch.testing.assert_close(found, expected, **CLOSE)
        torch.testing.assert_close(streams["embedding"].values[row], embedding, **CLOSE)
        start += len(expected)
    assert start == len(streams["tokens"].values)
    assert [layer.final_norm for layer in backbone.streams[0].layers] == [False] * 4


def test_the_last_token_of_a_clip_text_is_the_one_that_is_projected(tiny) -> None:
    """UniPT's shortcut for texts reads the last row of a sample."""
    folder = tiny("clip")
    model = library(folder)

    # The others have a letter that the tiny tokenizer lacks, and writes as the token of the end.
    streams = run(load(folder, "text"), [SAMPLES[0], SAMPLES[2], SAMPLES[3]])

    last_BD = streams["tokens"].values[streams["tokens"].layout.last_rows(), -1]
    projected = model.text_projection(model.text_model.final_layer_norm(last_BD))
    torch.testing.assert_close(streams["embedding"].values[:, 0], projected.detach(), **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_does_not_feel_its_batch(tiny, family) -> None:
    backbone = load(tiny(family), "text")

    batch, again = run(backbone, SAMPLES), run(backbone, SAMPLES)

    alone = run(backbone, SAMPLES[2:3])
    start = int(batch["tokens"].layout.first_rows()[2])
    rows = len(alone["tokens"].values)
    found = batch["tokens"].values[start : start + rows]
    torch.testing.assert_close(found, alone["tokens"].values, **CLOSE)
    torch.testing.assert_close(batch["embedding"].values[2:3], alone["embedding"].values, **CLOSE)
    assert torch.equal(batch["tokens"].values, again["tokens"].values)


def test_a_video_is_its_frames_one_after_the_other(tiny) -> None:
    backbone = load(tiny("clip"), "image", frames=2)
    videos = [{"id": 0, "view": 0, "video": PICTURES[:2]}, {"id": 1, "video": PICTURES[1:]}]

    streams = run(backbone, videos)

    frames = [{"image": image} for image in (*PICTURES[:2], *PICTURES[1:])]
    expected = run(load(tiny("clip"), "image"), frames)
    assert [stream.axes for stream in backbone.streams] == [("frames", "tokens"), ("frames",)]
    assert streams["tokens"].grid.tolist() == [[2, 17]] * 2
    assert streams["embedding"].grid.tolist() == [[2]] * 2
    for name in streams:
        assert streams[name].layout.num_samples == 2
        torch.testing.assert_close(streams[name].values, expected[name].values, **CLOSE)


def test_an_image_that_cannot_be_read_is_named_and_left_out(tiny, tmp_path) -> None:
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(picture(0)[:60])
    samples = [*IMAGES[:1], {"id": 1, "view": 0, "image": str(damaged)}, *IMAGES[2:]]
    backbone = load(tiny("clip"), "image")

    prepared = backbone.prepare(samples)

    assert list(prepared.failures) == [1]
    assert "damaged.png" in prepared.failures[1]
    assert prepared.lengths["tokens"].tolist() == [17, 0, 17]
    batch = backbone.run(prepared, prepared.longest_first())
    assert torch.equal(batch.streams["tokens"].values, run(backbone, samples[::2])["tokens"].values)


def test_the_modality_must_be_chosen(tiny) -> None:
    folder = tiny("clip")

    with pytest.raises(BackboneError, match="--modality text or --modality image"):
        load(folder, "auto")
    assert modality_read(BackboneConfig(name=str(folder), modality="text")) == "text"


@pytest.mark.parametrize(
    ("family", "choices", "words"),
    [
        ("clip", {"modality": "text", "frames": 2}, "frames is 2, but with --modality text"),
        ("clip", {"modality": "image", "max_length": 9}, "max length is 9, but with"),
        ("clip", {"modality": "image", "image_size": 30}, "multiples of its patches of 8"),
        ("siglip", {"modality": "text", "max_length": 9}, f"needed {MAX_POSITIONS}: every text"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused(tiny, family, choices, words) -> None:
    with pytest.raises(BackboneError, match=words):
        load(tiny(family), **choices)


@pytest.mark.parametrize(
    "choices",
    [
        {"modality": "text", "layers": (1,), "max_length": 20},
        {"modality": "image", "layers": (0, 2), "frames": 2, "image_size": 48},
        {"modality": "image", "image_size": (32, 48)},
    ],
)
def test_a_manifest_says_all_that_is_needed_to_load_it_again(tiny, choices) -> None:
    first = load(tiny("clip"), **choices)

    again = load_backbone(BackboneConfig.from_spec(first.spec), "cpu")

    assert again.identity == first.identity
    assert again.streams == first.streams
    assert again.spec == first.spec.model_copy(update={"name": again.spec.name})
