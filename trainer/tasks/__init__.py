"""Tasks: one file each, with its config, head, loss, metrics and predictions."""

from typing import Annotated

from pydantic import Field

from .answers import AnswersConfig, AnswersTask
from .base import SETTLED, ModelParts, Moment, Output, SideParts, TargetError, TargetReader, Task
from .classification import ClassificationConfig, ClassificationTask
from .grounding import GroundingConfig, GroundingTask
from .regression import RegressionConfig, RegressionTask
from .retrieval import RetrievalConfig, RetrievalTask
from .token_classification import TokenClassificationConfig, TokenClassificationTask
from .word_labels import FIRST_TOKENS

TaskConfig = Annotated[
    AnswersConfig
    | ClassificationConfig
    | GroundingConfig
    | RegressionConfig
    | RetrievalConfig
    | TokenClassificationConfig,
    Field(discriminator="name"),
]
LearnedTask = Annotated[
    AnswersTask
    | ClassificationTask
    | GroundingTask
    | RegressionTask
    | RetrievalTask
    | TokenClassificationTask,
    Field(discriminator="name"),
]

__all__ = [
    "FIRST_TOKENS",
    "SETTLED",
    "AnswersConfig",
    "AnswersTask",
    "ClassificationConfig",
    "ClassificationTask",
    "GroundingConfig",
    "GroundingTask",
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
    "TokenClassificationConfig",
    "TokenClassificationTask",
]
