"""Every recipe that comes along runs from files to predictions, with tiny backbones of its kind."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipe_cases import MAKERS, RECIPES

import trainer
from cli.console import Terminal
from cli.pipelines import Pipeline, load_pipeline, load_pipelines
from cli.stages import run_pipeline
from unipt import open_cache

SHIPPED = Path(__file__).parents[1] / "pipelines.yaml"
# Needs no data of its own: the tests of `unipt run` and the tutorial run it.
ELSEWHERE = {"quickstart"}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny backbone, made once per session."""
    root = tmp_path_factory.mktemp("recipes")

    def make(kind: str) -> Path:
        folder = root / kind.replace(" ", "-")
        return folder if folder.exists() else MAKERS[kind](folder)

    return make


def small(name: str, root: Path, tiny: Callable[[str], Path]) -> Pipeline:
    """A recipe with its data, tiny backbones, two epochs, and a rate that little data needs."""
    recipe = RECIPES[name]
    folders = {kind: tiny(kind) for kind in recipe.backbones.values()}
    settings = [f"data.root={root}"]
    for stage, kind in recipe.backbones.items():
        settings.append(f"extract.{stage}.backbone={folders[kind]}".replace("..", "."))
    for run in load_pipeline(SHIPPED, name).fit:
        settings += [f"fit.{run}.epochs=2", f"fit.{run}.batch_size=5"]
        settings.append(f"fit.{run}.optimizer.learning_rates=[3.0e-3]")
    settings += [setting.format_map(folders) for setting in recipe.settings]
    return load_pipeline(SHIPPED, name, settings)


@dataclass(frozen=True)
class Finished:
    """What running a recipe left."""

    pipeline: Pipeline
    facts: dict[str, Any]

    def caches(self, run: str) -> list[Any]:
        names = self.pipeline.fit[run].caches or self.pipeline.stages
        return [open_cache(self.facts["extract"][name]["cache"]) for name in names]


@pytest.fixture(scope="module", params=RECIPES)
def finished(
    request: pytest.FixtureRequest,
    tiny: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """A recipe that ran in a folder of its own."""
    folder = tmp_path_factory.mktemp(request.param)
    pipeline = small(request.param, RECIPES[request.param].write(folder / "data"), tiny)
    found: dict[str, Any] = {}

    class Quiet(Terminal):
        def result(self, text: str, facts: Any) -> None:
            found.update(facts)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_pipeline(pipeline, Quiet(quiet=True, as_json=False))
        yield Finished(pipeline, found)


def test_every_recipe_is_run_here_or_elsewhere() -> None:
    """A recipe that is added without a tiny form of it would go untested."""
    assert set(RECIPES) | ELSEWHERE == set(load_pipelines(SHIPPED))


def test_a_recipe_runs_from_files_to_metrics(finished: Finished) -> None:
    """Two epochs of every run; each number of it is one."""
    pipeline, facts = finished.pipeline, finished.facts

    assert [*facts["fit"]] == [*pipeline.fit]
    for run, report in facts["fit"].items():
        assert [trial["stopped"] for trial in report["trials"]] == [None]
        assert all(map(math.isfinite, report["metrics"].values())), run
        for split in pipeline.evaluate.splits if pipeline.evaluate else ():
            assert all(map(math.isfinite, facts["evaluate"][run][split].values())), run


def test_training_lowers_the_loss_of_what_it_trains_on(finished: Finished, tmp_path: Path) -> None:
    """Against the same network as it starts: with a learning rate that moves nothing."""
    for run in finished.pipeline.fit:
        config, caches = finished.pipeline.fit[run].config(), finished.caches(run)
        still = trainer.with_overrides(config, ["optimizer.learning_rates=[1e-12]", "epochs=1"])
        trainer.fit(still, caches, tmp_path / run)

        start, end = (
            trainer.evaluate(folder, caches, "train")["loss"]
            for folder in (tmp_path / run, finished.facts["fit"][run]["run_dir"])
        )

        assert end < start, run


def test_the_metric_is_what_the_predictions_say(finished: Finished) -> None:
    """Computed here once more, from stored predictions and the data's own answers."""
    run = next(iter(finished.pipeline.fit))
    folder, caches = finished.facts["fit"][run]["run_dir"], finished.caches(run)
    check = CHECKS[finished.pipeline.fit[run].task.name]
    for split in finished.facts["evaluate"][run]:
        check(trainer.load_run(folder), caches, split, trainer.evaluate(folder, caches, split))


def _check_recalls(run: Any, caches: list[Any], split: str, metrics: dict[str, float]) -> None:
    items = trainer.encode_split(run, caches[0], split, "items")
    texts = trainer.encode_split(run, caches[1], split, "texts")
    scores_TI = (texts.vectors @ items.vectors.T).cpu().numpy()
    own_T = np.array([items.names.index(name.rpartition("#")[0]) for name in texts.names])

    found_T = scores_TI.argmax(axis=1) == own_T
    found_I = own_T[scores_TI.argmax(axis=0)] == np.arange(len(items.names))

    assert metrics["text_to_item_r1"] == pytest.approx(100 * found_T.mean(), abs=1e-3)
    if run.config.task.protocol == "vse-infinity":
        assert metrics["item_to_text_r1"] == pytest.approx(100 * found_I.mean(), abs=1e-3)


def _check_accuracy(run: Any, caches: list[Any], split: str, metrics: dict[str, float]) -> None:
    target = caches[0].target(run.config.task.target)
    answers = [target.spec.classes[code] for code in target.values[caches[0].split(split)]]

    rows = trainer.predict_split(run, caches, split)
    right = [row["label"] == answer for row, answer in zip(rows, answers, strict=True)]

    assert metrics["accuracy"] == pytest.approx(np.mean(right), abs=1e-6)


def _check_answers(run: Any, caches: list[Any], split: str, metrics: dict[str, float]) -> None:
    answers, scores = caches[0].target("answers"), caches[0].target("scores")
    reached = []
    for sample, row in zip(
        caches[0].split(split), trainer.predict_split(run, caches, split), strict=True
    ):
        part = slice(answers.offsets[sample], answers.offsets[sample + 1])
        names = [answers.spec.classes[code] for code in answers.values[part]]
        worth = scores.values[slice(scores.offsets[sample], scores.offsets[sample + 1])]
        reached.append(dict(zip(names, worth, strict=True)).get(row["answer"], 0.0))

    assert metrics["accuracy"] == pytest.approx(np.mean(reached), abs=1e-6)


def _check_boxes(run: Any, caches: list[Any], split: str, metrics: dict[str, float]) -> None:
    truth_S4 = caches[0].target("box").values.reshape(-1, 4)[caches[0].split(split)]
    overlaps_S5 = []
    for truth, row in zip(truth_S4, trainer.predict_split(run, caches, split), strict=True):
        overlaps_S5.append([_generalised_iou(truth, box) for box in row["boxes"]])

    found_S5 = np.array(overlaps_S5) >= 0.5
    assert 0 < found_S5.any(axis=1).mean() < 1
    assert metrics["precision_at_1"] == pytest.approx(found_S5[:, 0].mean(), abs=1e-6)
    assert metrics["precision_at_5"] == pytest.approx(found_S5.any(axis=1).mean(), abs=1e-6)


def _generalised_iou(box_xywh: np.ndarray, corners: list[float]) -> float:
    """IoU less the share of the common hull that neither box covers."""
    x, y, width, height = box_xywh
    left, top, right, bottom = corners
    across = max(0.0, min(x + width, right) - max(x, left))
    down = max(0.0, min(y + height, bottom) - max(y, top))
    union = width * height + (right - left) * (bottom - top) - across * down
    hull = (max(x + width, right) - min(x, left)) * (max(y + height, bottom) - min(y, top))
    return across * down / union - (hull - union) / hull


CHECKS = {
    "classification": _check_accuracy,
    "retrieval": _check_recalls,
    "vqa": _check_answers,
    "grounding": _check_boxes,
}


def test_a_split_is_predicted_into_the_run_folder(finished: Finished) -> None:
    """Ranked names of the data set: each text of the split and each item once."""
    stage = finished.pipeline.predict
    if stage is None or stage.split is None:
        return
    lines = Path(finished.facts["predict"]["out"]).read_text().splitlines()
    rows = [json.loads(line) for line in lines]

    assert len(rows) == finished.facts["predict"]["num_rows"] > 0
    assert {row["split"] for row in rows} == {stage.split}
