"""Images and videos through a real backbone into a cache; unreadable ones shift nothing."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from conftest import Outcome
from PIL import Image
from tiny_models import save_tiny_timm

from cache_schema import FeatureCache
from extractor import BackboneConfig, ExtractConfig, extract, load_backbone
from extractor.inputs import BadRowError, DataError
from extractor.media import read_frames
from trainer import CacheExcerpt

NUM = 12
# Batches of other sizes round otherwise; another image, frame or view differs by 0.1 and more.


@pytest.fixture(autouse=True)
def own_datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of these files stays in the user's cache."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture(scope="session")
def tiny_vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_timm(tmp_path_factory.mktemp("backbones") / "vit", "class token")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twelve different JPEGs and `rows.csv` with their paths and labels."""
    rng = np.random.default_rng(1)
    rows = ["image,label"]
    for number in range(NUM):
        pixels = rng.integers(0, 255, (30 + number, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg")
        rows.append(f"{number}.jpg,{'ab'[number % 2]}")
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.fixture
def config(photos, tiny_vit) -> ExtractConfig:
    return ExtractConfig(
        backbone=str(tiny_vit),
        data=(str(photos / "rows.csv"),),
        cache=str(photos / "cache.zarr"),
        encoding="float32",
        device="cpu",
        shard_bytes=20_000,
    )


def states(cache: FeatureCache, sample: int) -> torch.Tensor:
    return cache[sample].streams[cache.manifest.streams[0].name].values


def test_stored_states_of_images_are_the_backbones_own(config, photos, tiny_vit) -> None:
    report = extract(config)

    assert report.num_samples == NUM
    assert report.num_shards > 1
    cache = FeatureCache.open(report.cache)
    backbone = load_backbone(BackboneConfig(name=str(tiny_vit)), "cpu")
    prepared = backbone.prepare([{"id": i, "image": str(photos / f"{i}.jpg")} for i in range(NUM)])
    batch = backbone.run(prepared, range(NUM))
    (name,) = (stream.name for stream in cache.manifest.streams)
    rows = batch.streams[name].values.shape[0] // NUM
    for sample in range(NUM):
        expected = batch.streams[name].values[sample * rows : (sample + 1) * rows]
        torch.testing.assert_close(states(cache, sample), expected, atol=2e-3, rtol=1e-3)
    assert extract(config).was_finished


def test_a_second_run_says_finished_without_loading_torch(config) -> None:
    """It looks at the rows, for the files they name, and at sizes and times of those."""
    extract(config)
    code = (
        "import sys; from extractor import ExtractConfig, extract\n"
        f"report = extract(ExtractConfig.model_validate_json({config.model_dump_json()!r}))\n"
        "assert report.was_finished\n"
        "loaded = {'torch', 'transformers', 'timm', 'av'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_image_that_was_replaced_makes_another_cache(config, photos) -> None:
    """The second run must neither say `finished` nor mix old states with new ones."""
    extract(config)
    Image.new("RGB", (33, 44)).save(photos / "3.jpg")

    with pytest.raises(Exception, match="media") as caught:
        extract(config)

    assert type(caught.value).__name__ == "FingerprintMismatchError"


def test_the_classes_of_a_folder_are_targets(photos, tiny_vit, tmp_path) -> None:
    for number in range(4):
        folder = tmp_path / "set" / ("train", "test")[number // 2] / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (photos / f"{number}.jpg").rename(folder / f"{number}.jpg")

    report = extract(
        ExtractConfig(
            backbone=str(tiny_vit),
            data=(str(tmp_path / "set"),),
            cache=str(tmp_path / "c.zarr"),
            keys=("file",),
            device="cpu",
        )
    )

    cache = FeatureCache.open(report.cache)
    assert cache.manifest.split_names == ["train", "test"]
    assert cache.target("label").values.tolist() == [0, 1, 0, 1]
    names = cache.target("file").strings(np.arange(4))
    assert names == ["a/0.jpg", "b/1.jpg", "a/2.jpg", "b/3.jpg"]


def damage(photos: Path) -> dict[int, str]:
    """Break three files in three ways; row to what is said about each."""
    (photos / "2.jpg").unlink()
    whole = (photos / "5.jpg").read_bytes()
    (photos / "5.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "7.jpg").write_text("<html>not found</html>")
    return {2: "there is no such file", 5: "truncated", 7: "not an image"}


def test_what_cannot_be_read_is_named_and_shifts_nothing(config, photos) -> None:
    sound = extract(config.model_copy(update={"cache": str(photos / "sound.zarr")}))
    broken = damage(photos)

    report = extract(config.model_copy(update={"on_error": "skip"}))

    assert (report.num_samples, report.num_unreadable) == (NUM, 3)
    before, cache = FeatureCache.open(sound.cache), FeatureCache.open(report.cache)
    assert [(found.sample, found.row) for found in cache.unreadable] == [(2, 2), (5, 5), (7, 7)]
    for found in cache.unreadable:
        assert found.reason.startswith(str(photos / f"{found.row}.jpg"))
        assert broken[found.row] in found.reason
    assert cache.source_rows().tolist() == list(range(NUM))
    assert cache.target("label").values.tolist() == [0, 1] * (NUM // 2)
    assert np.flatnonzero(~cache.finished_samples).tolist() == [2, 5, 7]
    for sample in set(range(NUM)) - set(broken):
        torch.testing.assert_close(states(cache, sample), states(before, sample))
    again = extract(config.model_copy(update={"on_error": "skip"}))
    assert (again.was_finished, again.num_unreadable) == (True, 3)


def test_a_damaged_image_stops_the_run_and_what_was_finished_stays(
    config, photos, unipt_command: Callable[..., Outcome]
) -> None:
    """A header tells most; one that only decoding finds comes when shards are written already."""
    whole = (photos / "10.jpg").read_bytes()
    (photos / "10.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadRowError, match=r"row 10 of split 'train' .*10\.jpg: cannot be read"):
        extract(config)

    cache = FeatureCache.open(str(config.cache), allow_partial=True)
    assert cache.finished_samples[0]
    assert not cache.finished_samples[10]
    arguments = ["--backbone", config.backbone, "--data", *config.data, "--device", "cpu"]
    outcome = unipt_command("extract", *arguments, "--cache", photos / "other.zarr")
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    said = " ".join(outcome.err.split())
    assert "--data: row 10 of split 'train' (the first row is 0):" in said
    assert "10.jpg: cannot be read (image file is truncated" in said


def test_the_first_look_finds_what_headers_tell(config, photos) -> None:
    (photos / "7.jpg").write_text("<html>not found</html>")
    (photos / "9.jpg").unlink()

    with pytest.raises(BadRowError, match=r"row 7 of .*7\.jpg: .*not an image.*\(1 more rows are"):
        extract(config)

    assert not Path(str(config.cache)).exists()


@pytest.mark.parametrize(
    "gone", [(0, 6), (0, 1, 11), (6, 7), (6, 7, 8, 9, 10, 11)], ids=lambda rows: str(len(rows))
)
def test_files_that_are_missing_where_a_split_begins_shift_nothing(config, photos, gone) -> None:
    """They have no bytes at all; once the samples before the first shard lost their targets."""
    header, *rows = (photos / "rows.csv").read_text().splitlines()
    for split, part in (("train", rows[:6]), ("test", rows[6:])):
        (photos / f"{split}.csv").write_text("\n".join([header, *part]) + "\n")
    for row in gone:
        (photos / f"{row}.jpg").write_bytes(b"")
    data = tuple(f"{split}={photos / split}.csv" for split in ("train", "test"))

    report = extract(config.model_copy(update={"data": data, "on_error": "skip"}))

    assert (report.num_samples, report.num_unreadable) == (NUM, len(gone))
    cache = FeatureCache.open(report.cache)
    assert cache.manifest.shard_starts[0] == 0
    assert {6} <= set(cache.manifest.shard_starts)
    assert [found.sample for found in cache.unreadable] == [*gone]
    assert cache.target("label").values.tolist() == [number % 2 for number in range(NUM)]
    assert cache.source_rows().tolist() == [*range(6), *range(6)]
    backbone = load_backbone(config.backbone_config, "cpu")
    for sample in sorted(set(range(NUM)) - set(gone)):
        prepared = backbone.prepare([{"id": 0, "image": str(photos / f"{sample}.jpg")}])
        (expected,) = (stream.values for stream in backbone.run(prepared, [0]).streams.values())
        torch.testing.assert_close(states(cache, sample), expected, atol=2e-3, rtol=1e-3)


def test_terminal_and_inspect_name_unreadable_rows(
    config, photos, unipt_command: Callable[..., Outcome]
) -> None:
    damage(photos)
    arguments = ["--backbone", config.backbone, "--data", *config.data, "--cache", config.cache]

    outcome = unipt_command("extract", *arguments, "--device", "cpu", "--on-error", "skip")
    page = unipt_command("inspect", config.cache)
    facts = json.loads(unipt_command("inspect", config.cache, "--json").out)

    said = " ".join((outcome.out + outcome.err).split())
    assert outcome.code == 0, said
    for row in (2, 5, 7):
        assert f"row {row} of split 'train' has no hidden states: {photos / f'{row}.jpg'}" in said
        assert f"row {row}: {photos / f'{row}.jpg'}" in page.out
    assert "3 of them unreadable" in said
    assert "3 samples without hidden states" in page.out
    assert facts["num_unreadable"] == 3
    assert [found["row"] for found in facts["unreadable"]] == [2, 5, 7]


def test_views_of_images_are_stored_after_the_image_itself(config, photos, tiny_vit) -> None:
    plain = FeatureCache.open(extract(config).cache)
    chosen = config.model_copy(update={"views": 3, "cache": str(photos / "views.zarr")})
    (photos / "4.jpg").write_text("broken")

    report = extract(chosen.model_copy(update={"on_error": "skip"}))

    cache = FeatureCache.open(report.cache)
    assert report.num_samples == 3 * NUM
    assert report.num_unreadable == 3
    assert cache.split("train").tolist() == [3 * row for row in range(NUM) if row != 4]
    backbone = load_backbone(BackboneConfig(name=str(tiny_vit)), "cpu")
    view = {"id": 5, "view": 2, "image": str(photos / "5.jpg")}
    batch = backbone.run(backbone.prepare([view]), [0])
    torch.testing.assert_close(states(cache, 3 * 5), states(plain, 5))
    (stream,) = batch.streams.values()
    torch.testing.assert_close(states(cache, 3 * 5 + 2), stream.values, atol=2e-3, rtol=1e-3)
    assert not torch.equal(states(cache, 3 * 5 + 1), states(cache, 3 * 5 + 2))


def test_settings_of_the_views_are_identity_only_where_there_are_views(config, photos) -> None:
    other = {"augmentation": {"crop": 0.9}}
    settings = {**config.model_dump(), **other}
    first = FeatureCache.open(extract(config).cache).fingerprint
    same = ExtractConfig(**{**settings, "cache": str(photos / "same.zarr")})
    assert FeatureCache.open(extract(same).cache).fingerprint == first

    one, two = (
        ExtractConfig(**{**config.model_dump(), **change, "views": 2, "cache": str(photos / name)})
        for change, name in (({}, "one.zarr"), (other, "two.zarr"))
    )
    caches = [FeatureCache.open(extract(found).cache) for found in (one, two)]

    assert caches[0].fingerprint != caches[1].fingerprint
    assert not torch.equal(states(caches[0], 1), states(caches[1], 1))


def test_views_without_a_training_split_are_refused(config, photos) -> None:
    entry = f"test={photos / 'rows.csv'}"

    with pytest.raises(DataError, match=r"--views: only the split 'train' .*\['test'\]"):
        extract(config.model_copy(update={"views": 2, "data": (entry,)}))


def test_videos_are_read_frame_by_frame(photos, tiny_vit) -> None:
    for number in range(2):
        with av.open(str(photos / f"{number}.mkv"), "w") as container:
            stream = container.add_stream("ffv1", rate=5)
            stream.width, stream.height = 32, 24
            for level in range(7):
                pixels = np.full((24, 32, 3), 30 * level + number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
            container.mux(stream.encode())
    (photos / "2.mkv").write_bytes((photos / "1.mkv").read_bytes()[:200])
    rows = [{"video": f"{i}.mkv", "caption": f"film {i}", "video_id": f"v{i}"} for i in range(3)]
    (photos / "v.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    chosen = ExtractConfig(
        backbone=str(tiny_vit),
        data=(str(photos / "v.jsonl"),),
        cache=str(photos / "v.zarr"),
        frames=3,
        keys=("video_id",),
        encoding="float32",
        device="cpu",
        on_error="skip",
    )

    report = extract(chosen)

    cache = FeatureCache.open(report.cache)
    assert CacheExcerpt.of(cache).example == ("clip.mp4",)
    assert (report.num_samples, report.num_unreadable) == (3, 1)
    assert cache.unreadable[0].reason.startswith(str(photos / "2.mkv"))
    assert cache.target("video_id").strings(np.arange(3)) == ["v0", "v1", "v2"]
    (spec,) = cache.manifest.streams
    assert spec.axes[0] == "frames"
    per_frame = states(cache, 0).shape[0] // 3
    backbone = load_backbone(BackboneConfig(name=str(tiny_vit)), "cpu")
    read_frames(photos / "0.mkv", 7)[3].save(photos / "middle.png")
    batch = backbone.run(backbone.prepare([{"id": 0, "image": str(photos / "middle.png")}]), [0])
    found = states(cache, 0)[per_frame : 2 * per_frame]
    torch.testing.assert_close(
        found, next(iter(batch.streams.values())).values, atol=2e-3, rtol=1e-3
    )


def test_frames_of_a_text_backbone_are_refused(tiny_bert, reviews_csv) -> None:
    with pytest.raises(Exception, match="--frames is 3, but it reads text"):
        extract(ExtractConfig(backbone=str(tiny_bert), data=(str(reviews_csv),), frames=3))


def test_the_suggested_training_runs_on_maps_of_several_sizes(
    photos, unipt_command: Callable[..., Outcome]
) -> None:
    """What is printed to be copied works; what does not work names what does."""
    cnn, cache = save_tiny_timm(photos / "cnn", "regnet"), photos / "maps.zarr"
    quick = (
        "--device",
        "cpu",
        "--epochs",
        "1",
        "--run",
        photos / "run",
        "--set",
        "validation.fraction=0.4",
    )

    extracted = unipt_command(
        *("extract", "--backbone", cnn, "--data", photos / "rows.csv", "--cache", cache),
        *("--device", "cpu"),
    )
    plain = unipt_command("fit", "--cache", cache, *quick)
    ladder = unipt_command("fit", "--cache", cache, "--network", "lst", *quick, "--overwrite")

    (line,) = re.findall(r"next: unipt (fit .*)", extracted.err)
    assert plain.code == ladder.code == 2
    assert "--set network.preset=vse-image" in plain.err
    assert "--set network.block=conv" in ladder.err
    suggested = unipt_command(*shlex.split(line), *quick, "--overwrite")
    assert suggested.code == 0, suggested.err


def test_no_training_is_suggested_where_there_is_nothing_to_learn(
    photos, tiny_vit, unipt_command: Callable[..., Outcome]
) -> None:
    (photos / "only.csv").write_text("image\n0.jpg\n1.jpg\n")

    outcome = unipt_command(
        *("extract", "--backbone", tiny_vit, "--data", photos / "only.csv"),
        *("--cache", photos / "only.zarr", "--device", "cpu"),
    )

    assert outcome.code == 0, outcome.err
    assert "next:" not in outcome.err
