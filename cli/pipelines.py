"""`pipelines.yaml`: named pipelines, validated whole before anything runs.

NAME:
  description: one line for `unipt run --list`
  extends: another pipeline, whose keys (but `runs`) count where they are not given here
  runs: folder of the run folders; runs/NAME if not given
  data: {format: FORMAT, root: FOLDER}
  extract: {...}              fields of extractor.ExtractConfig, or {STAGE: {...}, ...}
  fit: {RUN: {...}, ...}      fields of trainer.FitConfig, one run folder each, and `caches`
  evaluate: {splits: [...]}   every run on each split
  predict: {run: RUN, texts: [...]} or {run: RUN, split: SPLIT}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    RootModel,
    Tag,
    field_validator,
    model_validator,
)

from extractor import FORMATS, ExtractConfig
from trainer import FitConfig

from .documents import SettingsError, apply_settings, nearest, parse, read_yaml
from .inheritance import ONE_STAGE, complete, expand, is_one_stage


class Document(BaseModel):
    """A frozen section of the file: unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ExtractStage(ExtractConfig):
    """An extraction; where a list is meant, one name stands for a list of one."""

    @field_validator("data", "splits", "targets", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class FitStage(FitConfig):
    """A run, and the caches that it reads."""

    caches: tuple[str, ...] = Field(
        (), description="names of extract stages, in the task's order; all of them if empty"
    )

    def config(self) -> FitConfig:
        """The run's own settings."""
        return FitConfig.model_validate(self.model_dump(exclude={"caches"}))


class ExtractStages(RootModel[dict[str, ExtractStage]]):
    """Several extractions, by name."""


class DataStage(Document):
    """The data of all extractions that do not name their own."""

    format: str | None = Field(
        None, description="of a data set of the paper (docs/data.md); null for any other data"
    )
    root: str = Field(min_length=1, description="its folder; without a format any --data")

    @field_validator("format")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None and name not in FORMATS:
            raise ValueError(nearest(name, [*FORMATS]))
        return name


class EvaluateStage(Document):
    """Metrics of every run of the pipeline."""

    splits: tuple[str, ...] = Field(
        (), description="splits of the cache; all that were not trained on if empty"
    )


class PredictStage(Document):
    """Predictions of one run: for texts in the file itself, or for a split of the caches."""

    run: str = Field(description="name of one of the fits")
    texts: tuple[str, ...] = Field((), description="what to predict with the backbone, and show")
    split: str | None = Field(
        None, description="split whose stored samples to predict, into a file of the run folder"
    )
    top: int = Field(10, gt=0, description="matches of each query, of retrieval")

    @model_validator(mode="after")
    def _either(self) -> PredictStage:
        if bool(self.texts) == (self.split is not None):
            raise ValueError("needed texts or split, one of them")
        return self


def _tag_of_extract(value: Any) -> str:
    if isinstance(value, BaseModel):
        return type(value).__name__
    return ExtractStage.__name__ if is_one_stage(value) else ExtractStages.__name__


class Pipeline(Document):
    """From data to trained and measured runs."""

    description: str = Field(description="what it shows, in one line")
    runs: str = Field(description="folder that the run folders are made in")
    data: DataStage | None = Field(None, description="of every stage that names none")
    extract: Annotated[
        Annotated[ExtractStage, Tag("ExtractStage")]
        | Annotated[ExtractStages, Tag("ExtractStages")],
        Discriminator(_tag_of_extract),
    ] = Field(description="one extraction, or several by name")
    fit: dict[str, FitStage] = Field(min_length=1, description="run folder's name to its settings")
    evaluate: EvaluateStage | None = None
    predict: PredictStage | None = None

    @property
    def stages(self) -> dict[str, ExtractStage]:
        """Extractions by name, in order."""
        one = self.extract
        return one.root if isinstance(one, ExtractStages) else {ONE_STAGE: one}

    @model_validator(mode="after")
    def _names_what_is_there(self) -> Pipeline:
        """A stage can only refer to one that is there."""
        known = [*self.stages]
        problems = [
            f"fit.{run}.caches: found {name!r}, {nearest(name, known)}"
            for run, settings in self.fit.items()
            for name in settings.caches
            if name not in known
        ]
        if self.predict is not None and self.predict.run not in self.fit:
            found = self.predict.run
            problems.append(f"predict.run: found {found!r}, {nearest(found, [*self.fit])}")
        if problems:
            raise ValueError("; ".join(problems))
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
    return _parse(file, _read(file), {})


def load_pipeline(file: Path, name: str, settings: Sequence[str] = ()) -> Pipeline:
    """One pipeline, with some settings changed; the other pipelines must be sound as well.

    Args:
        file: Where it is written.
        name: Which one.
        settings: `stage.key=value` each.

    Raises:
        SettingsError: There is no such pipeline, or the file or a setting is wrong.
    """
    documents = _read(file)
    if name not in documents:
        known = nearest(name, [*documents])
        raise SettingsError(str(file), [f"there is no pipeline {name!r}, {known}"])
    asked = expand(name, documents, str(file))
    if isinstance(asked, dict):
        apply_settings(asked, settings)
    return _parse(file, documents, {name: asked})[name]


def _parse(
    file: Path, documents: Mapping[str, Any], changed: Mapping[str, Any]
) -> dict[str, Pipeline]:
    """All pipelines of the file; `changed` ones instead of those of the same name."""
    expanded = {name: expand(name, documents, str(file)) for name in documents}
    data = {name: complete(name, found) for name, found in {**expanded, **changed}.items()}
    return parse(PipelinesFile, data, str(file)).root


def _read(file: Path) -> dict[str, Any]:
    data = read_yaml(file.read_text(encoding="utf-8"), str(file))
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise SettingsError(str(file), ["needed a mapping from names to pipelines"])
    return data
