"""VisualBERT and LXMERT read a text and regions from files, from the file to a trained run."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packed_rows import sample_of
from PIL import Image
from tiny_library import REGION_WIDTH, save_tiny_region_encoder
from tiny_models import TEXTS

import unipt
from cache_schema import FeatureCache, FingerprintMismatchError, UserError
from extractor import BackboneConfig, load_backbone
from extractor.backbones import BackboneError, UnsupportedBackboneError
from extractor.inputs import BadRowError, DataError
from extractor.media import RegionRecipe
from extractor.media import regions as media_regions
from trainer.networks import IncompatibleNetworkError

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
FAMILIES = ("visual_bert", "lxmert")
COUNTS = (4, 1, 7)  # regions of the three files
NAMES = ("0.npz", "1.npz", "2.npz")
ASKED = [*zip(TEXTS, (0, 1, 2, 0), strict=True)]  # the last one is about the first image again


@pytest.fixture(scope="module", autouse=True)
def own_datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Nothing of these files stays in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("regions")
    return {name: save_tiny_region_encoder(folder / name, name) for name in FAMILIES}


def regions(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.random((count, 2, 2)), axis=1)
    features = rng.standard_normal((count, REGION_WIDTH))
    return {
        "features": features.astype(np.float32),
        "boxes": corners.reshape(count, 4).astype(np.float32),
    }


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of npz files with different numbers of regions."""
    for seed, (name, count) in enumerate(zip(NAMES, COUNTS, strict=True)):
        np.savez(tmp_path / name, **regions(count, seed))
    return tmp_path


def samples(folder: Path) -> list[dict[str, Any]]:
    return [
        {"id": at, "view": 0, "text": text, "regions": str(folder / NAMES[file])}
        for at, (text, file) in enumerate(ASKED)
    ]


def load(folder: Path, **choices: Any) -> Any:
    return load_backbone(BackboneConfig(name=str(folder), **choices), "cpu")


def run(backbone: Any, given: list[dict[str, Any]]) -> dict[str, Any]:
    streams: dict[str, Any] = backbone.run(backbone.prepare(given), range(len(given))).streams
    return streams


def library_states(folder: Path, sample: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Stream to (rows, layers, width) of a sample alone, as the library itself gives them."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)(sample["text"], return_tensors="pt")
    arrays = {k: torch.from_numpy(v)[None] for k, v in np.load(sample["regions"]).items()}
    with torch.no_grad():
        if model.config.model_type == "visual_bert":
            outputs = model(**inputs, visual_embeds=arrays["features"], output_hidden_states=True)
            return {"tokens": torch.stack(outputs.hidden_states, dim=2)[0]}
        seen = {"visual_feats": arrays["features"], "visual_pos": arrays["boxes"]}
        outputs = model(**inputs, **seen, output_hidden_states=True)
        first = {
            "regions": model.encoder.visn_fc(*seen.values()),
            "text": model.embeddings(inputs["input_ids"], inputs["token_type_ids"]),
        }
    after = {"regions": outputs.vision_hidden_states, "text": outputs.language_hidden_states}
    assert torch.equal(after["text"][-1], outputs.language_output)
    return {name: torch.stack([first[name], *after[name]], dim=2)[0] for name in first}


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_of_the_library(backbones, files, family) -> None:
    backbone = load(backbones[family])

    streams = run(backbone, samples(files))

    for at, sample in enumerate(samples(files)):
        expected = library_states(backbones[family], sample)
        assert list(streams) == list(expected)
        for name, states in expected.items():
            torch.testing.assert_close(sample_of(streams[name], at), states, **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_does_not_feel_its_batch(backbones, files, family) -> None:
    """Texts and numbers of regions differ; padding of either must reach nobody."""
    backbone = load(backbones[family])

    batch = run(backbone, samples(files))

    for at, sample in enumerate(samples(files)):
        for name, alone in run(backbone, [sample]).items():
            torch.testing.assert_close(sample_of(batch[name], at), alone.values, **CLOSE)


def test_every_layer_names_the_module_that_gives_it(backbones) -> None:
    (tokens,) = load(backbones["visual_bert"]).streams
    of_regions, text = load(backbones["lxmert"]).streams

    named = {s.name: {x.index: x.module for x in s.layers} for s in (tokens, of_regions, text)}
    assert named == {
        "tokens": {0: "embeddings", **{n + 1: f"encoder.layer.{n}" for n in range(3)}},
        "regions": {
            0: "encoder.visn_fc",
            **{n + 1: f"encoder.r_layers.{n}" for n in range(2)},
            **{n + 3: f"encoder.x_layers.{n}.visn_output" for n in range(2)},
        },
        "text": {
            0: "embeddings",
            **{n + 1: f"encoder.layer.{n}" for n in range(3)},
            **{n + 4: f"encoder.x_layers.{n}" for n in range(2)},
        },
    }
    assert {x.final_norm for s in (tokens, of_regions, text) for x in s.layers} == {None}


def test_chosen_layers_are_kept_with_the_last_of_both_streams(backbones, files) -> None:
    whole, chosen = load(backbones["lxmert"]), load(backbones["lxmert"], layers=(1,))

    expected, found = (run(backbone, samples(files)) for backbone in (whole, chosen))

    assert [[x.index for x in stream.layers] for stream in chosen.streams] == [[1, 4], [1, 5]]
    for stream in chosen.streams:
        kept = [x.index for x in stream.layers]
        torch.testing.assert_close(found[stream.name].values, expected[stream.name].values[:, kept])
    assert whole.identity != chosen.identity


@pytest.mark.parametrize("family", FAMILIES)
def test_measuring_reads_no_features(backbones, files, family, monkeypatch) -> None:
    backbone = load(backbones[family])
    expected = backbone.prepare(samples(files)).lengths
    read = media_regions._array
    monkeypatch.setattr(
        media_regions,
        "_array",
        lambda archive, name: read(archive, name) if name != "features" else pytest.fail(name),
    )

    measured = backbone.measure(samples(files))

    assert {k: v.tolist() for k, v in measured.lengths.items()} == {
        k: v.tolist() for k, v in expected.items()
    }


def test_a_file_of_several_samples_is_read_once(backbones, files, monkeypatch) -> None:
    backbone = load(backbones["lxmert"])
    opened, read = [], RegionRecipe.read
    monkeypatch.setattr(RegionRecipe, "read", lambda r, s: opened.append(s) or read(r, s))

    prepared = backbone.prepare(samples(files))

    assert sorted(opened) == [str(files / name) for name in NAMES]
    assert prepared.inputs["regions_number"].tolist() == [0, 1, 2, 0]


def test_boxes_in_pixels_are_divided_by_the_size_of_the_image(tmp_path) -> None:
    shares = regions(5)
    pixels = {**shares, "boxes": shares["boxes"] * [640, 480, 640, 480], "size": [480, 640]}
    np.savez_compressed(tmp_path / "pixels.npz", **pixels)
    recipe = RegionRecipe(REGION_WIDTH, has_boxes=True)

    found = recipe.read(tmp_path / "pixels.npz")

    np.testing.assert_allclose(found.boxes, shares["boxes"], rtol=1e-6)
    np.testing.assert_array_equal(found.features, shares["features"])


def test_bytes_of_a_file_and_half_precision_are_read_too() -> None:
    arrays = {"features": regions(3)["features"].astype(np.float16)}
    file = io.BytesIO()
    np.savez(file, **arrays)

    found = RegionRecipe(REGION_WIDTH, has_boxes=False).read(file.getvalue())

    np.testing.assert_array_equal(found.features, arrays["features"].astype(np.float32))


def _rewrite(path: Path, **arrays: Any) -> None:
    kept = {k: v for k, v in {**regions(4), **arrays}.items() if v is not None}
    np.savez(path, **kept)


def _npy(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, regions(4)["features"])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[200] ^= 1  # among the numbers of the first array
    path.write_bytes(content)


def _with_nan() -> np.ndarray:
    features = regions(4)["features"]
    features[2, 3] = np.nan
    return features


BOXES = regions(4)["boxes"]
WRONG: dict[str, tuple[Any, str]] = {
    "missing": (lambda path: path.unlink(), "there is no such file"),
    "no npz": (lambda path: path.write_bytes(b"regions"), "not an npz file"),
    "empty": (lambda path: path.write_bytes(b""), "not an npz file"),
    "an npy": (_npy, "not an npz file"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:300]), "not an npz file"),
    "damaged": (_flip, "Bad CRC-32"),
    "no features": (
        lambda path: _rewrite(path, features=None, x=np.zeros(3)),
        r"there is no array 'features' in it, but \['boxes', 'x'\]",
    ),
    "width": (
        lambda path: _rewrite(path, features=np.zeros((4, 5), np.float32)),
        r"features are \(4, 5\) floats, needed \(at least one region, 6\) floats",
    ),
    "no regions": (
        lambda path: _rewrite(path, features=np.zeros((0, 6)), boxes=np.zeros((0, 4))),
        r"features are \(0, 6\) floats",
    ),
    "integers": (lambda p: _rewrite(p, features=np.zeros((4, 6), int)), r"\(4, 6\) integers"),
    "objects": (lambda p: _rewrite(p, features=np.array([{}])), r"\(1,\) Python objects"),
    "NaN": (lambda path: _rewrite(path, features=_with_nan()), "features hold NaN"),
    "too large": (
        lambda path: _rewrite(path, features=np.full((4, 6), 1e60)),
        "features hold NaN or numbers that are too large",
    ),
    "no boxes": (lambda path: _rewrite(path, boxes=None), "there is no array 'boxes'"),
    "other boxes": (
        lambda path: _rewrite(path, boxes=BOXES[:3]),
        r"boxes are \(3, 4\) floats, needed \(4, 4\) numbers",
    ),
    "pixels": (
        lambda path: _rewrite(path, boxes=BOXES * 100),
        "boxes reach from .* to .* of the image, needed 0 to 1; boxes in pixels need",
    ),
    "NaN in boxes": (lambda path: _rewrite(path, boxes=BOXES * np.nan), "boxes reach from nan"),
    "turned": (
        lambda path: _rewrite(path, boxes=BOXES[:, [2, 3, 0, 1]]),
        "boxes end before they begin, needed x1, y1, x2, y2",
    ),
    "size": (
        lambda path: _rewrite(path, boxes=BOXES, size=[3, 4, 5]),
        r"size is \(3,\) integers, needed height and width",
    ),
    "no size": (
        lambda path: _rewrite(path, boxes=BOXES, size=[0, 640]),
        r"size is \[0.0, 640.0\], needed height and width",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_file_costs_only_its_samples_and_says_what_is_wrong(
    backbones, files, fault
) -> None:
    backbone = load(backbones["lxmert"])
    expected = run(backbone, [samples(files)[at] for at in (1, 2)])
    harm, words = WRONG[fault]
    harm(files / "0.npz")

    prepared = backbone.prepare(samples(files))

    assert list(prepared.failures) == [0, 3]
    assert re.match(rf"{files / '0.npz'}: .*{words}", prepared.failures[0])
    assert prepared.lengths["text"].astype(bool).tolist() == [False, True, True, False]
    found = backbone.run(prepared, [1, 2]).streams
    for name, stream in expected.items():
        torch.testing.assert_close(found[name].values, stream.values, **CLOSE)


@pytest.mark.parametrize(
    "fault", ["missing", "no npz", "no features", "width", "no boxes", "pixels"]
)
def test_what_headers_and_boxes_tell_is_known_before_anything_runs(backbones, files, fault) -> None:
    harm, _ = WRONG[fault]
    harm(files / "0.npz")
    backbone = load(backbones["lxmert"])

    measured = backbone.measure(samples(files))

    assert measured.failures == backbone.prepare(samples(files)).failures
    assert list(measured.failures) == [0, 3]
    assert measured.lengths["regions"].tolist() == [0, 1, 7, 0]


def test_visual_bert_needs_no_boxes(backbones, files) -> None:
    expected = run(load(backbones["visual_bert"]), samples(files))["tokens"]
    np.savez(files / "0.npz", features=regions(4, 0)["features"])

    found = run(load(backbones["visual_bert"]), samples(files))["tokens"]

    assert torch.equal(found.values, expected.values)


def test_settings_that_nothing_reads_and_models_that_hide_layers_are_refused(
    backbones, tmp_path
) -> None:
    bypass = save_tiny_region_encoder(tmp_path / "bypass", "visual_bert", bypass_transformer=True)

    with pytest.raises(UnsupportedBackboneError, match="bypass_transformer is true"):
        load(bypass)
    with pytest.raises(BackboneError, match="image size is 32, but with --modality regions"):
        load(backbones["lxmert"], image_size=32)
    with pytest.raises(BackboneError, match="--modality is 'image', a region encoder reads"):
        load(backbones["lxmert"], modality="image")
    with pytest.raises(BackboneError, match="sample 0: regions is NoneType, needed the path"):
        load(backbones["lxmert"]).prepare([{"text": "a", "image": "a.png"}])


def test_a_view_changes_words_and_keeps_the_regions(backbones, files) -> None:
    backbone = load(backbones["lxmert"])
    plain = samples(files)[1]

    prepared = backbone.prepare([plain, {**plain, "view": 1}])

    ids = prepared.ragged("token_ids")
    assert prepared.inputs["regions_number"].tolist() == [0, 0]
    assert ids[0].tolist() != ids[1].tolist()


# From rows to a trained run


NUM = 24  # rows of each split


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """`train.jsonl` and `test.jsonl` of questions about six images; features tell the answer.

    Each question is asked about images of either answer.
    """
    (tmp_path / "boxes").mkdir()
    for image in range(6):
        arrays = regions(2 + image % 3, image)
        arrays["features"] += 3 if image % 2 else -3
        np.savez(tmp_path / "boxes" / f"{image}.npz", **arrays)
    for split in ("train", "validation", "test"):
        rows = [
            {
                "question": question(row),
                "regions": f"boxes/{row % 6}.npz",
                "image": f"{row % 6}.jpg",
                "label": ("no", "yes")[row % 2],
            }
            for row in range(NUM)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(lines)
    return tmp_path


def question(row: int) -> str:
    return TEXTS[row // 2 % 4]


def extract(backbone: Path, data: Path, **settings: Any) -> Any:
    asked = {"cache": data / "cache.zarr", "encoding": "float32", "device": "cpu", **settings}
    return unipt.extract(
        str(backbone),
        [f"{split}={data / split}.jsonl" for split in ("train", "validation", "test")],
        **asked,
    )


# Epochs, learning rate and the network.
NETWORKS = {
    "visual_bert": (30, 0.005, ()),
    "lxmert": (10, 0.02, ("network.structure=encoder-decoder",)),
    "lxmert, regions alone": (10, 0.02, ('network.streams=["regions"]',)),
}


@pytest.mark.parametrize("case", NETWORKS)
def test_questions_about_regions_are_answered_end_to_end(backbones, data, case) -> None:
    """The answer is told by the regions alone: a network that is not given them cannot know it."""
    backbone = backbones[case.partition(",")[0]]
    report = extract(backbone, data, shard_bytes=20_000)
    fitted, (epochs, rate, network) = data / "run", NETWORKS[case]

    unipt.fit(
        report.cache, "label", task="vqa", run=fitted, epochs=epochs, batch_size=4, device="cpu",
        overrides=[f"optimizer.learning_rates=[{rate}]", "pooling=mean", *network],
    )  # fmt: skip

    assert report.num_shards > 1
    assert unipt.evaluate(fitted, report.cache, device="cpu")["accuracy"] > 0.8
    (given,) = unipt.load(fitted, device="cpu").predict(
        [{"text": question(1), "regions": data / "boxes" / "1.npz"}]
    )
    assert (given["answer"], given["error"]) == ("yes", None)
    assert extract(backbone, data, shard_bytes=20_000).was_finished


def test_text_alone_trains_and_both_streams_need_the_structure_made_for_them(
    backbones, data
) -> None:
    report = extract(backbones["lxmert"], data)
    asked: dict[str, Any] = {"task": "vqa", "epochs": 1, "device": "cpu"}
    alone = ['network.streams=["text"]']

    unipt.fit(report.cache, "label", run=data / "text", overrides=alone, **asked)

    assert unipt.evaluate(data / "text", report.cache, device="cpu")["accuracy"] >= 0
    with pytest.raises(IncompatibleNetworkError, match=r"network\.structure"):
        unipt.fit(report.cache, "label", run=data / "both", **asked)


def test_stored_states_are_the_backbones_own(backbones, data) -> None:
    report = extract(backbones["lxmert"], data)

    cache = FeatureCache.open(report.cache)
    assert [stream.name for stream in cache.manifest.streams] == ["regions", "text"]
    for sample in (0, 7):
        expected = library_states(
            backbones["lxmert"],
            {
                "text": question(sample),
                "regions": data / "boxes" / f"{sample % 6}.npz",
            },
        )
        for name, states in expected.items():
            torch.testing.assert_close(cache[sample].streams[name].values, states, **CLOSE)


def test_skipped_files_leave_all_other_rows_their_numbers(backbones, data) -> None:
    (data / "boxes" / "1.npz").write_bytes(b"no regions")
    with pytest.raises(BadRowError, match=r"row 1 of split 'train'.*1\.npz: cannot be read \(not"):
        extract(backbones["lxmert"], data)

    report = extract(backbones["lxmert"], data, on_error="skip")

    assert report.num_unreadable == 3 * NUM / 6
    cache = FeatureCache.open(report.cache)
    found = cache.gather(cache.split("train"))
    assert found.sample_ids.tolist() == [row for row in range(NUM) if row % 6 != 1]
    expected = library_states(
        backbones["lxmert"], {"text": question(2), "regions": data / "boxes" / "2.npz"}
    )
    torch.testing.assert_close(cache[2].streams["text"].values, expected["text"], **CLOSE)


def test_regions_that_were_replaced_make_another_cache(backbones, data) -> None:
    """The second run must neither say `finished` nor mix old states with new ones."""
    extract(backbones["visual_bert"], data)
    np.savez(data / "boxes" / "3.npz", **regions(3, seed=99))

    with pytest.raises(FingerprintMismatchError, match="media"):
        extract(backbones["visual_bert"], data)


def test_the_column_of_regions_is_named_or_guessed(backbones, data) -> None:
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    for row in rows:
        row["clip"] = row["other"] = row.pop("regions")
    (data / "two.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked: dict[str, Any] = {"cache": data / "c.zarr", "device": "cpu"}
    lxmert = str(backbones["lxmert"])

    with pytest.raises(DataError, match=r"which column holds the regions.*--regions-column"):
        unipt.extract(lxmert, data / "two.jsonl", **asked)
    with pytest.raises(DataError, match="--image-column: is 'image', but what is read"):
        unipt.extract(lxmert, data / "two.jsonl", image_column="image", **asked)
    with pytest.raises(BackboneError, match=r"--frames is 3, but it reads regions\+text"):
        unipt.extract(lxmert, data / "two.jsonl", frames=3, **asked)
    report = unipt.extract(lxmert, data / "two.jsonl", regions_column="other", **asked)
    assert report.num_samples == NUM


def test_a_picture_is_no_file_of_regions(backbones, data) -> None:
    report = extract(backbones["visual_bert"], data)
    unipt.fit(report.cache, "label", task="vqa", run=data / "run", epochs=1, device="cpu")
    page = (data / "run" / "README.md").read_text()
    assert "model.predict([('regions.npz', 'a text of yours')])" in page
    model = unipt.load(data / "run", device="cpu")

    with pytest.raises(UserError, match=r"regions 0: found .*, needed the path or the bytes of an"):
        model.predict([{"text": "a", "regions": Image.new("RGB", (8, 8))}])
    there, missing = model.predict(
        [{"text": "a", "regions": data / "boxes" / name} for name in ("0.npz", "none.npz")]
    )
    assert there["answer"] in ("yes", "no")
    assert missing["answer"] is None
    assert missing["error"] == f"{data / 'boxes' / 'none.npz'}: there is no such file"
