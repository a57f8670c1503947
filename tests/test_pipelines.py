"""`pipelines.yaml` and `unipt run`: validated whole, run once, not run again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Outcome

from cli.documents import SettingsError
from cli.pipelines import load_pipeline, load_pipelines, pipelines_file

Run = Callable[..., Outcome]
SHIPPED = Path(__file__).parents[1] / "pipelines.yaml"


@pytest.fixture
def tiny_pipeline(tiny_bert: Path, reviews_csv: Path, in_tmp: Path) -> dict[str, object]:
    """`pipelines.yaml` in the current folder with one pipeline, `tiny`."""
    task = {"name": "classification", "target": "label"}
    pipeline = {
        "description": "a tiny one",
        "runs": "runs",
        "extract": {
            "backbone": str(tiny_bert),
            "data": [f"train={reviews_csv}", f"test={reviews_csv}"],
            "cache": "cache.zarr",
        },
        "fit": {
            "unipt": {"task": task, "epochs": 2, "batch_size": 8},
            "probe": {"task": task, "network": {"name": "probe"}, "epochs": 2, "batch_size": 8},
        },
        "evaluate": {"splits": ["test"]},
        "predict": {"run": "probe", "texts": ["a good film", "a bad film"]},
    }
    Path("pipelines.yaml").write_text(yaml.safe_dump({"tiny": pipeline}, sort_keys=False))
    return pipeline


def test_the_shipped_pipelines_are_sound_and_described() -> None:
    """What a stranger tries first must not fail on a typo."""
    pipelines = load_pipelines(SHIPPED)

    assert {"quickstart", "bert-base-text-classification"} <= set(pipelines)
    assert all(20 < len(pipeline.description) < 100 for pipeline in pipelines.values())


def test_the_list_shows_every_pipeline_with_its_description(
    unipt_command: Run, in_tmp: Path
) -> None:
    """Outside a project the file that came with the package is listed."""
    outcome = unipt_command("run", "--list")

    assert outcome.code == 0
    assert outcome.out.splitlines()[0] == str(SHIPPED)
    for name, pipeline in load_pipelines(SHIPPED).items():
        assert f"{name} " in outcome.out
        assert pipeline.description in outcome.out


def test_a_file_in_this_folder_comes_before_the_shipped_one(
    unipt_command: Run, tiny_pipeline: dict[str, object]
) -> None:
    """A project brings its own pipelines; `--file` names another file."""
    assert pipelines_file() == Path("pipelines.yaml")
    assert "a tiny one" in unipt_command("run", "--list").out
    assert "quickstart" in unipt_command("run", "--list", "--file", SHIPPED).out


def test_a_pipeline_runs_once_and_then_says_that_all_is_done(
    unipt_command: Run, tiny_pipeline: dict[str, object]
) -> None:
    """The second run trains and evaluates nothing, and prints the same comparison."""
    first = unipt_command("run", "tiny")
    assert first.code == 0, first.err
    weights = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.safetensors")}

    second = unipt_command("run", "tiny")

    assert second.code == 0, second.err
    assert second.out == first.out
    assert "cache.zarr: already complete" in second.err
    assert second.err.count("finished already") == 2
    assert second.err.count("evaluated already") == 2
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    table, predictions = first.out.split("\n\n")
    assert [line.split()[0] for line in table.splitlines()] == ["run", "runs/unipt", "runs/probe"]
    assert predictions.splitlines()[1].endswith("a good film")


def test_a_pipeline_reports_everything_as_json(
    unipt_command: Run, tiny_pipeline: dict[str, object]
) -> None:
    """One object with each stage's own report, from stored numbers or fresh ones alike."""
    fresh = json.loads(unipt_command("run", "tiny", "--json").out)
    stored = json.loads(unipt_command("run", "tiny", "--json").out)

    assert set(fresh) == {"extract", "fit", "evaluate", "predict"}
    assert fresh["fit"]["unipt"]["num_steps"] == 12
    assert fresh["evaluate"] == stored["evaluate"]
    assert [p["label"] in ("pos", "neg") for p in fresh["predict"]] == [True, True]


def test_a_stage_that_was_cut_short_goes_on(
    unipt_command: Run, tiny_pipeline: dict[str, object]
) -> None:
    """Without its weights a run folder is unfinished: it is resumed, the other one is not."""
    first = unipt_command("run", "tiny")
    Path("runs/unipt/model.safetensors").unlink()

    second = unipt_command("run", "tiny")

    assert second.code == 0, second.err
    assert "resuming after step" in second.err
    assert second.err.count("finished already") == 1
    first_metrics = [line.split()[-1] for line in first.out.splitlines()[1:3]]
    assert [line.split()[-1] for line in second.out.splitlines()[1:3]] == first_metrics


def test_other_settings_are_not_mixed_with_a_run_that_is_there(
    unipt_command: Run, tiny_pipeline: dict[str, object]
) -> None:
    """Neither is overwritten nor silently reused; the message names what differs."""
    unipt_command("run", "tiny")

    outcome = unipt_command("run", "tiny", "--set", "fit.probe.epochs=3")

    assert outcome.code == 2
    assert "runs/probe: holds a run of other settings: epochs: 3 here, 2 there" in outcome.err
    assert "--set runs=FOLDER" in outcome.err
    again = unipt_command("run", "tiny", "--set", "fit.probe.epochs=3", "--set", "runs=others")
    assert again.code == 0, again.err
    assert Path("others/probe/model.safetensors").exists()


def test_a_single_csv_needs_only_its_name(
    unipt_command: Run, tiny_bert: Path, reviews_csv: Path, in_tmp: Path
) -> None:
    """`bert-base-text-classification` works for any csv; with one split nothing is left to test."""
    outcome = unipt_command(
        *("run", "bert-base-text-classification", "--set", f"extract.data={reviews_csv}"),
        *("--set", f"extract.backbone={tiny_bert}", "--set", "extract.max_length=16"),
        *("--set", "fit.unipt.epochs=1", "--json"),
    )

    assert outcome.code == 0, outcome.err
    facts = json.loads(outcome.out)
    assert facts["evaluate"] == {"unipt": {}}
    assert len(facts["fit"]["unipt"]["trials"]) == 3


def test_every_problem_of_a_file_is_named_at_once(tiny_pipeline: dict[str, object]) -> None:
    """Also in the pipelines that were not asked for, each with its path and the nearest key."""
    data = {"tiny": tiny_pipeline, "other": {"description": "x", "runs": "y", "fits": {}}}
    Path("broken.yaml").write_text(yaml.safe_dump(data))

    with pytest.raises(SettingsError) as found:
        load_pipeline(
            Path("broken.yaml"),
            "tiny",
            ["extract.backbon=x", "fit.unipt.network.redction=3", "fit.probe.epochs=0"],
        )

    assert set(found.value.problems) == {
        "tiny.extract.backbon: unknown key, did you mean 'backbone'?",
        "tiny.fit.unipt.network.name: missing",
        "tiny.fit.probe.epochs: found 0, input should be greater than 0",
        "other.extract: missing",
        "other.fit: missing",
        "other.fits: unknown key, did you mean 'fit'?",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needed a mapping from names to pipelines"),
        ("- a\n- b\n", "needed a mapping from names to pipelines"),
        ("tiny: [", "line 1, column 8: not valid YAML"),
        ("tiny: 3\n", "tiny: found 3, input should be a valid dictionary"),
    ],
)
def test_a_file_that_is_no_pipelines_file_is_refused(in_tmp: Path, text: str, words: str) -> None:
    """With its name, and the place where there is one."""
    Path("pipelines.yaml").write_text(text)

    with pytest.raises(SettingsError, match=r"pipelines\.yaml: ") as found:
        load_pipelines(Path("pipelines.yaml"))

    assert words in str(found.value)


def test_predict_must_name_one_of_the_fits(tiny_pipeline: dict[str, object]) -> None:
    """A run that no stage makes is found before anything is extracted."""
    with pytest.raises(
        SettingsError, match=r"tiny: predict.run: found 'prob', did you mean 'probe'"
    ):
        load_pipeline(Path("pipelines.yaml"), "tiny", ["predict.run=prob"])
