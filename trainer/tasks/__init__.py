"""Tasks: one file each, with its config, head, loss, metrics and predictions."""

from typing import Annotated

from pydantic import Field

from .answers import AnswersConfig, AnswersTask
from .base import SETTLED, ModelParts, Moment, Output, SideParts, TargetError, TargetReader, Task
from .classification import ClassificationConfig, ClassificationTask
from .regression import RegressionConfig, RegressionTask
from .retrieval import RetrievalConfig, RetrievalTask

TaskConfig = Annotated[
    AnswersConfig | ClassificationConfig | RegressionConfig | RetrievalConfig,
    Field(discriminator="name"),
]
LearnedTask = Annotated[
    AnswersTask | ClassificationTask | RegressionTask | RetrievalTask, Field(discriminator="name")
]

__all__ = [
    "SETTLED",
    "AnswersConfig",
    "AnswersTask",
    "ClassificationConfig",
    "ClassificationTask",
    "LearnedTask",
    "ModelParts",
    "Moment",
    "Output",
    "RegressionConfig",
    "RegressionTask",
    "RetrievalConfig",
    "RetrievalTask",
    "SideParts",
    "TargetError",
    "TargetReader",
    "Task",
    "TaskConfig",
]
