"""Trained runs on new images and texts, through their real backbones; nothing is shifted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import WORDS, Outcome
from PIL import Image
from scenes import THINGS, scene
from tiny_models import save_tiny_timm

import trainer
import unipt
from cache_schema import FingerprintMismatchError, UserError
from trainer import evaluate

NUM = 16
Run = Callable[..., Outcome]


@pytest.fixture(scope="module", autouse=True)
def own_datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Nothing of these files stays in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache")
        )
        yield


class World:
    """Photos of things, a table of them with labels and captions, caches and runs."""

    def __init__(self, folder: Path, tiny_bert: Path) -> None:
        self.folder = folder
        vit = save_tiny_timm(folder / "vit", "class token")
        for split, first in (("train", 0), ("test", NUM)):
            rows = []
            for number in range(first, first + NUM):
                shown, name = scene(number), f"{number}.png"
                shown.draw().save(folder / name)
                word = THINGS.index(shown.things[0]) + WORDS.index("film")
                rows.append(
                    {
                        "image": name,
                        "image_id": name,
                        "caption": [
                            f"this is a {WORDS[word]}",
                            f"the {WORDS[word]} of {number % 7}",
                        ],
                        "shape": shown.things[0].split()[1],
                    }
                )
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{split}.jsonl").write_text(lines)
        data = [f"{split}={folder / split}.jsonl" for split in ("train", "test")]
        common = {"keys": ("image_id",), "device": "cpu", "encoding": "float32"}
        self.images = unipt.extract(
            str(vit), data, cache=folder / "images.zarr", targets=("shape",), **common
        ).cache
        self.texts = unipt.extract(
            str(tiny_bert), data, cache=folder / "texts.zarr", text_column="caption", **common
        ).cache
        quick = {"epochs": 2, "device": "cpu", "precision": "float32"}
        self.search, self.things = folder / "search", folder / "things"
        self.report = unipt.fit(
            [self.images, self.texts],
            run=self.search,
            overrides=["task.width=16", "batch_size=8", "optimizer.learning_rates=[0.01]"],
            **quick,
        )
        unipt.fit(self.images, "shape", run=self.things, **quick)


@pytest.fixture(scope="module")
def world(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"), tiny_bert)


def texts_of(world: World, split: str) -> list[str]:
    lines = (world.folder / f"{split}.jsonl").read_text().splitlines()
    return [caption for line in lines for caption in json.loads(line)["caption"]]


def test_two_caches_of_real_backbones_become_one_run(world: World) -> None:
    """Each image is stored once, its captions each; both splits are joined by the key."""
    images, texts = unipt.open_cache(world.images), unipt.open_cache(world.texts)

    assert (images.num_samples, texts.num_samples) == (2 * NUM, 4 * NUM)
    assert world.report.primary == "rsum"
    metrics = unipt.evaluate(world.search, [world.images, world.texts], device="cpu")
    assert 0 < metrics["rsum"] <= 600
    assert world.report.num_train + world.report.num_validation == 2 * NUM


def test_new_texts_and_images_are_encoded_as_from_the_caches(world: World) -> None:
    """Online and cached, the same code from the hidden states on: equal within their rounding."""
    model = unipt.load(world.search, device="cpu")
    photos = [world.folder / f"{number}.png" for number in range(NUM, 2 * NUM)]

    items = model.encode(photos, "items", batch_size=5)
    texts = model.encode(texts_of(world, "test"), "texts", batch_size=7)

    for side, online, cache in (("items", items, world.images), ("texts", texts, world.texts)):
        cached = trainer.encode_split(model.run, unipt.open_cache(cache), "test", side)
        torch.testing.assert_close(online, cached.vectors, atol=1e-4, rtol=0)


def test_a_text_finds_images_and_an_image_finds_texts(world: World) -> None:
    """The best matches by name, as ranking the whole split gives them."""
    model = unipt.load(world.search, device="cpu")
    query = texts_of(world, "test")[4]

    found = model.search(query, items=world.images, top=3)
    described = model.search(world.folder / "17.png", texts=world.texts, top=4)

    rows = unipt.predict_cached(world.search, [world.images, world.texts], top=4, device="cpu")
    ranked = {row["query"]: row for row in rows}
    row = ranked["18.png#0"]
    assert [match.score for match in found] == pytest.approx(row["scores"][:3], abs=1e-4)
    assert [match.name for match in found] == row["found"][:3]
    scores = [match.score for match in described]
    assert scores == pytest.approx(ranked["17.png"]["scores"], abs=1e-4)


def test_a_search_refuses_what_it_cannot_search(world: World, tiny_bert: Path) -> None:
    """The wrong side, no side, another run's cache: each is named."""
    model = unipt.load(world.search, device="cpu")

    with pytest.raises(UserError, match="needed one cache"):
        model.search("a film")
    with pytest.raises(FingerprintMismatchError, match=r"texts\.zarr"):
        model.search("a film", items=world.texts)
    with pytest.raises(UserError, match="run of classification, needed one of retrieval"):
        unipt.load(world.things, device="cpu").search("a film", items=world.images)
    with pytest.raises(UserError, match=r"nothing\.png: there is no such file"):
        model.search(world.folder / "nothing.png", texts=world.texts)


def test_images_are_predicted_from_paths_bytes_and_pictures(world: World) -> None:
    """Whatever an image comes as, its pixels decide; a lost file takes nobody's place."""
    model = unipt.load(world.things, device="cpu")
    path = world.folder / "20.png"

    rows = model.predict(
        [path, world.folder / "lost.png", str(path), path.read_bytes(), Image.open(path)],
        batch_size=2,
    )

    assert rows[1] == {"label": None, "score": None, "error": rows[1]["error"]}
    assert "lost.png: there is no such file" in rows[1]["error"]
    others = [rows[0], *rows[2:]]
    assert len({row["label"] for row in others}) == 1
    assert all(row["error"] is None for row in others)
    assert [row["score"] for row in others] == pytest.approx([rows[0]["score"]] * 4, abs=1e-5)
    grey = np.asarray(Image.open(path).convert("L"))
    as_8_bits, as_16_bits = model.predict(
        [Image.fromarray(grey), Image.fromarray(grey.astype(np.uint16) * 257)]
    )
    assert as_16_bits["score"] == as_8_bits["score"]
    with pytest.raises(UserError, match="image 0: pixels are floating point numbers, needed 8 or"):
        model.predict([Image.fromarray(grey.astype(np.float32))])
    with pytest.raises(UserError, match="image 0: found 7, needed a path, bytes or a PIL image"):
        model.predict([7])


def test_what_is_suggested_after_training_fits_what_the_backbone_reads(
    world: World, unipt_command: Run, tmp_path: Path
) -> None:
    """A run beside a ViT is never asked to predict a text."""
    fitted = unipt_command(
        *("fit", "--cache", world.images, "--target", "shape", "--epochs", "1"),
        *("--run", tmp_path / "run"),
    )
    evaluated = unipt_command("evaluate", "--run", tmp_path / "run", "--cache", world.images)

    line = f"next: unipt predict --run {tmp_path / 'run'} photo.jpg"
    assert line in fitted.err.splitlines()[-1]
    assert line in evaluated.err.splitlines()[-1]
    assert "model.predict(['photo.jpg'])" in (tmp_path / "run" / "README.md").read_text()


def test_predictions_online_and_from_the_cache_are_the_same(world: World) -> None:
    """Row by row, by name of the source row."""
    model = unipt.load(world.things, device="cpu")
    photos = [world.folder / f"{number}.png" for number in range(NUM, 2 * NUM)]

    online = model.predict(photos)
    cached = list(unipt.predict_cached(world.things, world.images, "test", device="cpu"))

    assert [row["row"] for row in cached] == list(range(NUM))
    scores = [[row["score"] for row in rows] for rows in (online, cached)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)
    right = np.mean(
        [row["label"] == scene(NUM + row["row"]).things[0].split()[1] for row in cached]
    )
    cache = unipt.open_cache(world.images)
    assert evaluate(world.things, cache, "test", device="cpu")["accuracy"] == pytest.approx(right)


def test_a_folder_with_damaged_files_is_predicted_row_by_row(
    world: World, tmp_path: Path, unipt_command: Run
) -> None:
    """They are named, get a row without a prediction, and nothing behind them moves up."""
    for place, number in enumerate((16, 17, 18, 19)):
        (tmp_path / f"{place}.png").write_bytes((world.folder / f"{number}.png").read_bytes())
    (tmp_path / "1.png").write_bytes(b"no image at all")
    (tmp_path / "rows.csv").write_text("image\n" + "".join(f"{i}.png\n" for i in (0, 1, 2, 3, 0)))
    out = tmp_path / "found.parquet"

    outcome = unipt_command(
        *("predict", "--run", world.things, "--data", tmp_path / "rows.csv", "--out", out),
        *("--device", "cpu", "--batch-size", "2"),
    )

    assert outcome.code == 0, outcome.err
    assert "5 rows, 1 of them without a prediction" in outcome.out
    assert "row 1: no prediction" in outcome.err
    assert "1.png" in outcome.err
    rows = pq.read_table(out).to_pylist()
    assert [row["row"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row["file"] for row in rows] == ["0.png", "1.png", "2.png", "3.png", "0.png"]
    assert rows[1]["label"] is None
    model = unipt.load(world.things, device="cpu")
    alone = model.predict([world.folder / f"{number}.png" for number in (16, 18, 19, 16)])
    assert [rows[i]["score"] for i in (0, 2, 3, 4)] == pytest.approx(
        [row["score"] for row in alone], abs=1e-4
    )


def test_the_command_line_ranks_and_searches(
    world: World, tmp_path: Path, unipt_command: Run
) -> None:
    """Two caches to a file of ranks; a text, or an image, and one cache to a table."""
    caches = ("--cache", world.images, "--cache", world.texts)

    ranked = unipt_command(
        *("predict", "--run", world.search, *caches, "--top", "2", "--device", "cpu"),
        *("--out", tmp_path / "ranked.jsonl"),
    )
    found = unipt_command(
        *("predict", "--run", world.search, "this is a film", "--cache", world.images),
        *("--top", "2", "--device", "cpu", "--json"),
    )

    assert ranked.code == 0, ranked.err
    rows = [json.loads(line) for line in (tmp_path / "ranked.jsonl").read_text().splitlines()]
    assert len(rows) == 3 * NUM
    assert list(rows[0]) == ["split", "direction", "query", "found", "scores"]
    assert found.code == 0, found.err
    matches = json.loads(found.out)["found"]["this is a film"]
    assert len(matches) == 2
    assert matches[0]["score"] >= matches[1]["score"]
    assert matches[0]["name"].endswith(".png")


def test_a_folder_names_its_files_from_the_folder_on_and_one_split_can_be_chosen(
    world: World, tmp_path: Path, unipt_command: Run
) -> None:
    """Rows of a folder have no other name."""
    for split, number in (("train", 3), ("test", 17)):
        (tmp_path / "photos" / split / "a").mkdir(parents=True)
        photo = (world.folder / f"{number}.png").read_bytes()
        (tmp_path / "photos" / split / "a" / f"{number}.png").write_bytes(photo)
    predict = ("predict", "--run", world.things, "--data", tmp_path / "photos", "--device", "cpu")

    both = unipt_command(*predict, "--out", tmp_path / "both.jsonl")
    one = unipt_command(*predict, "--out", tmp_path / "one.jsonl", "--split", "test")

    assert (both.code, one.code) == (0, 0), both.err + one.err
    lines = [json.loads(line) for line in (tmp_path / "both.jsonl").read_text().splitlines()]
    assert [row["file"] for row in lines] == ["train/a/3.png", "test/a/17.png"]
    (line,) = (tmp_path / "one.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == "test/a/17.png"


def test_a_named_sample_that_cannot_be_read_leaves_an_exit_code(
    world: World, unipt_command: Run
) -> None:
    """The others are predicted; a script sees that one is not."""
    lost = world.folder / "lost.png"

    outcome = unipt_command(
        *("predict", "--run", world.things, lost, world.folder / "20.png", "--device", "cpu")
    )

    assert outcome.code == 2
    assert "20.png" in outcome.out
    assert "1 of 2 samples could not be read; " in outcome.err
    assert "lost.png: there is no such file" in outcome.err


def test_a_retrieval_run_says_that_it_searches(
    world: World, tmp_path: Path, unipt_command: Run
) -> None:
    """It has nothing to predict for samples, and both caches to rank."""
    predict = ("predict", "--run", world.search, "--device", "cpu")
    out = ("--out", tmp_path / "rows.csv")

    for arguments in (("a film",), (world.folder / "20.png",)):
        outcome = unipt_command(*predict, *arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert "is a run of retrieval, which searches a cache. Name the cache" in outcome.err
    outcome = unipt_command(*predict, "--data", world.folder / "test.jsonl", *out)
    assert outcome.code == 2
    assert "which searches a cache" in outcome.err
    for outcome in (
        unipt_command(*predict, "--cache", world.images, *out),
        unipt_command("evaluate", "--run", world.search, "--cache", world.images),
    ):
        assert outcome.code == 2
        assert "got one cache, the run needs two: items, then texts" in outcome.err
        assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "rows.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("a.png", "--split", "test", "--media-root", "."), "--media-root, --split: no effect"),
        (("a.png", "--top", "3", "--on-error", "skip"), "--on-error, --top: no effect with SAMPLE"),
        (("--data", "d", "--out", "o.csv", "--top", "3"), "--top: no effect with --data"),
        (("--data", "d"), "--data needs --out FILE"),
        (("--cache", "c", "--out", "o.csv", "--batch-size", "3"), "--batch-size: no effect"),
        (("--cache", "c", "a text", "--out", "o.csv"), "--out: no effect with SAMPLE and --cache"),
    ],
)
def test_flags_that_cannot_take_effect_are_refused(
    unipt_command: Run, arguments: tuple[str, ...], said: str
) -> None:
    outcome = unipt_command("predict", "--run", "runs/a", *arguments)

    assert outcome.code == 2
    assert said in " ".join(outcome.err.split())


def test_the_number_of_matches_means_nothing_to_a_run_that_predicts(
    world: World, tmp_path: Path, unipt_command: Run
) -> None:
    outcome = unipt_command(
        *("predict", "--run", world.things, "--cache", world.images, "--top", "3"),
        *("--out", tmp_path / "a.csv", "--device", "cpu"),
    )

    assert outcome.code == 2
    assert "--top: " in outcome.err


def test_a_folder_as_the_output_is_refused_before_anything_runs(
    world: World, tmp_path: Path, unipt_command: Run
) -> None:
    (tmp_path / "rows.csv").mkdir()

    outcome = unipt_command(
        *("predict", "--run", world.things, "--cache", world.images, "--device", "cpu"),
        *("--out", tmp_path / "rows.csv"),
    )

    assert outcome.code == 2
    assert "is a folder, needed a file" in outcome.err
    assert "predict test" not in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_a_backbone_that_was_moved_is_found_where_it_is_said_to_be(
    world: World, tmp_path: Path, unipt_command: Run
) -> None:
    """Its weights decide whether it is the one; where it lies does not."""
    there, moved = world.folder / "vit", tmp_path / "elsewhere"
    predict = ("predict", "--run", world.things, world.folder / "20.png", "--device", "cpu")
    there.rename(moved)
    try:
        lost = unipt_command(*predict)
        found = unipt_command(*predict, "--backbone", moved)
        searched = unipt.load(world.search, device="cpu", backbone=[moved, "nowhere/at/all"])
        assert len(searched.search(world.folder / "17.png", texts=world.texts)) == 5
        other = save_tiny_timm(tmp_path / "other", "class token")
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps({**config, "note": "another"}))
        refused = unipt_command(*predict, "--backbone", other)
        too_many = unipt_command(*predict, "--backbone", moved, "--backbone", moved)
    finally:
        moved.rename(there)

    assert lost.code == 2
    assert "name its folder with --backbone" in lost.err
    assert found.code == 0, found.err
    assert refused.code == 2
    assert "in the run" in refused.err
    assert "--backbone: found 2" in too_many.err
