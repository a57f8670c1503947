"""Grounding from referring expressions on disk to boxes drawn on images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome
from formats_on_disk import write_refexp
from PIL import Image
from tiny_models import save_tiny_mdetr

import unipt
from trainer import evaluate
from unipt.drawing import with_box

Run = Callable[..., Outcome]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RefCOCO's files, a tiny MDETR, a cache of it and a run."""
    folder = tmp_path_factory.mktemp("draw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "datasets-cache")
        root = write_refexp(folder / "refcoco")
        model = save_tiny_mdetr(folder / "mdetr")
        unipt.extract(
            str(model),
            f"refcoco:{root}",
            cache=folder / "cache",
            targets=("box", "size", "spans"),
            device="cpu",
            encoding="float32",
        )
        unipt.fit(
            folder / "cache",
            task="grounding",
            run=folder / "run",
            epochs=2,
            batch_size=8,
            device="cpu",
            overrides=["network.preset=mdetr"],
        )
        yield folder


def test_boxes_predicted_online_are_those_predicted_from_the_cache(world: Path) -> None:
    """In pixels of the same image; only the size comes from the target there, the file here."""
    root = world / "refcoco"

    online = [
        row for row in unipt.predict(world / "run", f"refcoco:{root}", device="cpu")
        if row["split"] == "validation"
    ]  # fmt: skip
    cached = list(unipt.predict_cached(world / "run", world / "cache", "validation", device="cpu"))

    assert len(online) == len(cached) > 0
    for mine, theirs in zip(online, cached, strict=True):
        assert mine["row"] == theirs["row"]
        np.testing.assert_allclose(mine["box"], theirs["box"], rtol=1e-3, atol=1e-2)
    assert max(max(row["box"]) for row in online) > 2  # pixels, not shares of the image
    metrics = evaluate(world / "run", unipt.open_cache(world / "cache"), "validation", device="cpu")
    assert 0 <= metrics["precision_at_1"] <= metrics["precision_at_10"] <= 1


def test_predict_draws_every_box_on_its_image(world: Path, unipt_command: Run) -> None:
    """One picture per expression, larger by the strip with its words; the rest is the image."""
    outcome = unipt_command(
        "predict", "--run", world / "run", "--data", f"refcoco:{world / 'refcoco'}", "--out",
        world / "rows.jsonl", "--draw", world / "drawn", "--device", "cpu", "--quiet",
    )  # fmt: skip

    assert outcome.code == 0
    rows = [json.loads(line) for line in (world / "rows.jsonl").read_text().splitlines()]
    drawn = sorted((world / "drawn").glob("*.png"))
    assert len(drawn) == len(rows)
    first = rows[0]
    with Image.open(next(p for p in drawn if p.name.startswith(f"{first['split']}-"))) as picture:
        assert picture.mode == "RGB"


def test_a_box_is_drawn_where_it_lies() -> None:
    """The frame has its colour, inside and outside stay as they were, the strip is below."""
    image = Image.new("RGB", (120, 90), (0, 90, 0))

    drawn = with_box(image, [20.0, 10.0, 70.0, 60.0], "the left mug on the long table", 0.5)

    assert drawn.width == 120
    assert drawn.height > 100
    pixels = np.asarray(drawn)
    frame, ground = (230, 30, 90), (0, 90, 0)
    for place in ((10, 40), (60, 40), (30, 20), (30, 70)):
        assert tuple(pixels[place]) == frame
    for place in ((30, 40), (5, 5), (80, 110)):
        assert tuple(pixels[place]) == ground
    assert (pixels[90:] != 255).any()


def test_a_box_beyond_the_image_is_cut_to_it() -> None:
    drawn = with_box(Image.new("RGB", (60, 40)), [-30.0, -9.0, 400.0, 300.0], "all", 1.0)

    pixels = np.asarray(drawn)
    assert tuple(pixels[0, 0]) == tuple(pixels[39, 59]) == (230, 30, 90)


def test_drawing_needs_data(world: Path, unipt_command: Run) -> None:
    outcome = unipt_command("predict", "--run", world / "run", "x.jpg", "--draw", world / "drawn")

    assert outcome.code == 2
    assert "--draw: no effect with SAMPLE" in " ".join(outcome.err.split())
