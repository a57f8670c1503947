"""`pipelines.yaml`: named pipelines, validated whole before anything runs.

NAME:
  description: one line for `unipt run --list`
  runs: folder of the run folders
  extract: {...}              fields of extractor.ExtractConfig
  fit: {RUN: {...}, ...}      fields of trainer.FitConfig, one run folder each
  evaluate: {splits: [...]}   every run on each split
  predict: {run: RUN, texts: [...]}
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    field_validator,
    model_validator,
)

from extractor import ExtractConfig
from trainer import FitConfig

from .documents import SettingsError, apply_settings, nearest, parse, read_yaml


class Document(BaseModel):
    """A frozen section of the file: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ExtractStage(ExtractConfig):
    """An extraction; where a list is meant, one name stands for a list of one."""

    @field_validator("data", "splits", "targets", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class EvaluateStage(Document):
    """Metrics of every run of the pipeline."""

    splits: tuple[str, ...] = Field(
        (), description="splits of the cache; all that were not trained on if empty"
    )


class PredictStage(Document):
    """Predictions for texts in the file itself, as a demonstration."""

    run: str = Field(description="name of one of the fits")
    texts: tuple[str, ...] = Field(min_length=1, description="what to predict")


class Pipeline(Document):
    """From data to trained and measured runs."""

    description: str = Field(description="what it shows, in one line")
    runs: str = Field(description="folder that the run folders are made in")
    extract: ExtractStage
    fit: dict[str, FitConfig] = Field(min_length=1, description="run folder's name to its settings")
    evaluate: EvaluateStage | None = None
    predict: PredictStage | None = None

    @model_validator(mode="after")
    def _predicts_with_a_run(self) -> Pipeline:
        if self.predict is not None and self.predict.run not in self.fit:
            raise ValueError(
                f"predict.run: found {self.predict.run!r}, {nearest(self.predict.run, [*self.fit])}"
            )
        return self


class PipelinesFile(RootModel[dict[str, Pipeline]]):
    """Every pipeline of a file, by name."""


def pipelines_file(file: Path | None = None) -> Path:
    """The file that the user named, else the one in this folder, else the one that came along."""
    if file is None:
        here = Path("pipelines.yaml")
        return here if here.is_file() else Path(__file__).parents[1] / "pipelines.yaml"
    if not file.is_file():
        raise SettingsError("--file", [f"there is no file {str(file)!r}"])
    return file


def load_pipelines(file: Path) -> dict[str, Pipeline]:
    """All pipelines of a file.

    Raises:
        SettingsError: Names every problem of the file with its path.
    """
    return parse(PipelinesFile, _read(file), str(file)).root


def load_pipeline(file: Path, name: str, settings: Sequence[str] = ()) -> Pipeline:
    """One pipeline, with some settings changed; the other pipelines must be sound as well.

    Args:
        file: Where it is written.
        name: Which one.
        settings: `stage.key=value` each.

    Raises:
        SettingsError: There is no such pipeline, or the file or a setting is wrong.
    """
    data = _read(file)
    if name not in data:
        raise SettingsError(str(file), [f"there is no pipeline {name!r}, {nearest(name, [*data])}"])
    if isinstance(data[name], dict):
        apply_settings(data[name], settings)
    return parse(PipelinesFile, data, str(file)).root[name]


def _read(file: Path) -> dict[str, Any]:
    data = read_yaml(file.read_text(encoding="utf-8"), str(file))
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise SettingsError(str(file), ["needed a mapping from names to pipelines"])
    return data
