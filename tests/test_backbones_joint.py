"""ViLT reads a text and an image together; its patches stay in order, whatever the batch."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packed_rows import sample_of
from PIL import Image
from tiny_images import PICTURES, picture
from tiny_library import save_tiny_vilt
from tiny_models import TEXTS

from extractor import BackboneConfig, load_backbone
from extractor.backbones import BackboneError, UnsupportedBackboneError

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
IMAGES = [PICTURES[0], PICTURES[1], PICTURES[0], picture(5, (70, 33))]
SAMPLES = [
    {"id": at, "view": 0, "text": text, "image": image}
    for at, (text, image) in enumerate(zip(TEXTS, IMAGES, strict=True))
]


@pytest.fixture(scope="module")
def vilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vilt(tmp_path_factory.mktemp("joint") / "vilt")


def load(folder: Path, **choices: Any) -> Any:
    return load_backbone(BackboneConfig(name=str(folder), **choices), "cpu")


def run(backbone: Any, samples: list[dict[str, Any]]) -> Any:
    return backbone.run(backbone.prepare(samples), range(len(samples))).streams["tokens"]


def library_states(folder: Path, sample: dict[str, Any]) -> torch.Tensor:
    """(rows, layers, width) of a sample alone; the library's random order of patches undone."""
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    opened = Image.open(io.BytesIO(sample["image"])).convert("RGB")
    pixels = processor(opened, return_tensors="pt")
    inputs = AutoTokenizer.from_pretrained(folder)(sample["text"], return_tensors="pt")
    model = AutoModel.from_pretrained(folder)
    height, width = pixels["pixel_values"].shape[2:]
    num_patches = height // 8 * (width // 8)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        drawn = torch.multinomial(torch.ones(num_patches), num_patches)
        torch.manual_seed(3)
        outputs = model(**inputs, **pixels, output_hidden_states=True)
    states = torch.stack([*outputs.hidden_states[:-1], outputs.last_hidden_state], dim=2)[0]
    before = inputs["input_ids"].shape[1] + 1
    return torch.cat([states[:before], states[before:][drawn.argsort()]])


def test_states_are_those_of_the_library_text_first_then_the_image(vilt) -> None:
    backbone = load(vilt)

    stream = run(backbone, SAMPLES)

    for at, sample in enumerate(SAMPLES):
        torch.testing.assert_close(sample_of(stream, at), library_states(vilt, sample), **CLOSE)
    layers = backbone.streams[0].layers
    assert [layer.final_norm for layer in layers] == [False, False, False, True]
    assert layers[-1].module == "layernorm"


def test_a_sample_does_not_feel_its_batch_and_a_second_run_is_the_same(vilt) -> None:
    backbone = load(vilt)

    batch, again = run(backbone, SAMPLES), run(backbone, SAMPLES)

    assert torch.equal(batch.values, again.values)
    for at, sample in enumerate(SAMPLES):
        alone = run(backbone, [sample])
        torch.testing.assert_close(sample_of(batch, at), alone.values, **CLOSE)


def test_an_image_of_several_samples_is_decoded_and_embedded_once(vilt, monkeypatch) -> None:
    from extractor.backbones import fitted
    from extractor.backbones.joint import ViltStates

    backbone = load(vilt)
    decoded, embedded = [], []
    load_image, embed = fitted.load_image, ViltStates.embed
    monkeypatch.setattr(fitted, "load_image", lambda s: decoded.append(s) or load_image(s))
    monkeypatch.setattr(ViltStates, "embed", lambda s, p: embedded.append(p) or embed(s, p))

    prepared = backbone.prepare(SAMPLES)
    backbone.run(prepared, range(4))

    assert len(decoded) == len(embedded) == 3
    assert prepared.inputs["image_number"].tolist() == [0, 1, 0, 2]


def test_measuring_tells_the_rows_without_decoding(vilt, monkeypatch) -> None:
    from extractor.backbones import fitted

    backbone = load(vilt)
    expected = backbone.prepare(SAMPLES).lengths["tokens"]
    monkeypatch.setattr(fitted, "load_image", lambda source: pytest.fail("was decoded"))

    assert backbone.measure(SAMPLES).lengths["tokens"].tolist() == expected.tolist()


def test_an_image_that_cannot_be_read_costs_only_its_samples(vilt) -> None:
    backbone = load(vilt)
    samples = [SAMPLES[0], {**SAMPLES[1], "image": b"no image"}, SAMPLES[2]]

    prepared = backbone.prepare(samples)

    assert list(prepared.failures) == [1]
    assert np.flatnonzero(prepared.lengths["tokens"]).tolist() == [0, 2]
    batch = backbone.run(prepared, prepared.longest_first())
    assert batch.num_samples == 2


def test_a_view_shows_another_part_of_the_image(vilt) -> None:
    backbone = load(vilt)
    samples = [SAMPLES[0], {**SAMPLES[0], "view": 1}, {**SAMPLES[0], "view": 1}]

    prepared = backbone.prepare(samples)

    assert prepared.inputs["image_number"].tolist() == [0, 1, 1]
    assert prepared.lengths["tokens"].min() > 0


def test_another_size_is_another_identity_and_survives_the_manifest(vilt) -> None:
    own, exact = load(vilt), load(vilt, image_size=(24, 40))

    stream = run(exact, SAMPLES)

    text_rows = exact.prepare(SAMPLES).inputs["token_ids"].lengths
    assert (stream.layout.lengths.numpy() - text_rows).tolist() == [1 + 3 * 5] * 4
    assert own.identity["image"] != exact.identity["image"]
    again = load_backbone(BackboneConfig.from_spec(exact.spec), "cpu")
    assert again.identity == exact.identity


def test_what_would_read_random_patches_or_no_patches_is_refused(vilt, tmp_path) -> None:
    folder = shutil.copytree(vilt, tmp_path / "model")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace('"max_image_length": -1', '"max_image_length": 200')
    )

    with pytest.raises(UnsupportedBackboneError, match="max_image_length is 200"):
        load(folder)
    with pytest.raises(BackboneError, match="multiples of its patches of 8"):
        load(vilt, image_size=30)
