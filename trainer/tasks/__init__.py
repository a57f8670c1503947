"""Tasks: one file each, with its config, head, loss, metrics and predictions."""

from typing import Annotated

from pydantic import Field

from .base import SETTLED, ModelParts, Moment, Output, TargetError, TargetReader, Task
from .classification import ClassificationConfig, ClassificationTask
from .regression import RegressionConfig, RegressionTask

TaskConfig = Annotated[ClassificationConfig | RegressionConfig, Field(discriminator="name")]
LearnedTask = Annotated[ClassificationTask | RegressionTask, Field(discriminator="name")]

__all__ = [
    "SETTLED",
    "ClassificationConfig",
    "ClassificationTask",
    "LearnedTask",
    "ModelParts",
    "Moment",
    "Output",
    "RegressionConfig",
    "RegressionTask",
    "TargetError",
    "TargetReader",
    "Task",
    "TaskConfig",
]
