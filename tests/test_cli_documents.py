"""Settings of a user: every problem at once, each with its path and the nearest key."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from cli.documents import SettingsError, apply_settings, parse, read_yaml


class Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Linear(Document):
    name: Literal["linear"] = "linear"
    bias: bool = True


class Deep(Document):
    name: Literal["deep"] = "deep"
    depth: int = Field(2, gt=0)


class Stage(Document):
    network: Annotated[Linear | Deep, Field(discriminator="name")] = Linear()
    rates: tuple[float, ...] = (0.1,)
    split: Literal["train", "test"] | None = None
    layers: Literal["all"] | tuple[int, ...] = "all"


class Whole(Document):
    stages: dict[str, Stage]
    epochs: int = 3


def problems_of(data: object) -> list[str]:
    with pytest.raises(SettingsError) as found:
        parse(Whole, data, "file.yaml")
    return list(found.value.problems)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"stages": {}, "epoch": 3}, "epoch: unknown key, did you mean 'epochs'?"),
        ({"stages": {}, "zzz": 3}, "zzz: unknown key, known are epochs, stages"),
        ({}, "stages: missing"),
        ({"stages": {}, "epochs": "many"}, "epochs: found 'many', input should be a valid integer"),
        (
            {"stages": {"a": {"network": {"name": "deep", "dept": 1}}}},
            "stages.a.network.dept: unknown key, did you mean 'depth'?",
        ),
        (
            {"stages": {"a": {"network": {"name": "deep", "depth": 0}}}},
            "stages.a.network.depth: found 0, input should be greater than 0",
        ),
        (
            {"stages": {"a": {"network": {"name": "dep"}}}},
            "stages.a.network.name: found 'dep', did you mean 'deep'?",
        ),
        ({"stages": {"a": {"network": {}}}}, "stages.a.network.name: missing"),
        ({"stages": {"a": {"rates": [0.1, "x"]}}}, "stages.a.rates.1: found 'x', input should"),
        ({"stages": {"a": {"splits": "test"}}}, "stages.a.splits: unknown key, did you mean"),
        ({"stages": {"a": {"split": "tst"}}}, "stages.a.split: found 'tst', input should be"),
        (
            {"stages": {"a": {"layers": "some"}}},
            "stages.a.layers: found 'some', input should be 'all' or found 'some', input should be",
        ),
        ([1], "input should be a valid dictionary"),
    ],
)
def test_a_problem_is_named_with_its_path(data: object, expected: str) -> None:
    """The path is the one that the user wrote, also through mappings and unions."""
    (problem,) = problems_of(data)

    assert problem.startswith(expected)


def test_all_problems_are_named_at_once() -> None:
    """Nobody should have to run a command three times to learn of three typos."""
    data = {"epochs": 0.5, "stages": {"a": {"rate": [1]}, "b": {"network": {"name": "x"}}}}

    with pytest.raises(SettingsError) as found:
        parse(Whole, data, "file.yaml")

    assert len(found.value.problems) == 3
    assert str(found.value).startswith("file.yaml: 3 problems\n  stages.a.rate: unknown key")


def test_settings_reach_into_sections() -> None:
    """`--set` writes one place and leaves the rest; values are YAML."""
    data: dict[str, Any] = {"fit": {"epochs": 3, "seed": 7}}

    apply_settings(data, ["fit.epochs=5", "fit.optimizer.rates=[1e-3, 0.1]", "name=null"])

    assert data == {
        "fit": {"epochs": 5, "seed": 7, "optimizer": {"rates": ["1e-3", 0.1]}},
        "name": None,
    }


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("epochs", "found 'epochs', needed path=value"),
        (".epochs=3", "found '.epochs=3', needed path=value"),
        ("epochs.more=3", "epochs.more: 'epochs' is 3, it has no keys"),
        ("name=[1,", "not valid YAML"),
    ],
)
def test_a_setting_that_cannot_be_written_is_refused(setting: str, words: str) -> None:
    """A typo in `--set` never silently changes nothing."""
    with pytest.raises(SettingsError, match="--set") as found:
        apply_settings({"epochs": 3}, [setting])

    assert words in str(found.value)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: {}\nb: 1\na: {}\n", "line 3, column 1: .*'a' is there twice, first in line 1"),
        ("a:\n  fit:\n    x: 1\n    x: 2\n", "line 4, column 5: .*'x' is there twice"),
    ],
)
def test_a_key_that_is_there_twice_is_refused(text: str, place: str) -> None:
    """The first run of the name vanished without a word."""
    with pytest.raises(SettingsError, match=f"file.yaml: {place}"):
        read_yaml(text, "file.yaml")


def test_merged_keys_may_be_given_again() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, y: 2}\nc: {<<: *b, x: 3}\n"

    assert read_yaml(text, "file.yaml")["c"] == {"x": 3, "y": 2}


def test_broken_yaml_is_reported_with_its_place() -> None:
    """Line and column, as an editor counts them."""
    with pytest.raises(SettingsError, match=r"file.yaml: line 2, column 5: not valid YAML"):
        read_yaml("a: 1\nb: [", "file.yaml")
