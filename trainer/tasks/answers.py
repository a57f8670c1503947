"""Visual question answering: one of many answers, each of which may be partly right.

B questions, A answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from ..errors import ConfigError
from ..heads import AnswerHead, head_tensors
from ..losses import soft_score_loss
from ..pooling import PoolingName
from .base import ModelParts, Moment, TargetError, TargetReader, TaskOptions
from .labels import Labels, label_names
from .pooled import PooledModel
from .scored import ScoredAnswers
from .vocabulary import read_answers

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

    from cache_schema import FeatureCache

_KINDS = ("category", "categories", "integer")


class AnswersConfig(TaskOptions):
    """Answer a question: VQA v2 with soft scores, GQA and others with one right answer."""

    usual_pooling: ClassVar[PoolingName | None] = "first"

    name: Literal["vqa"] = "vqa"
    target: str = Field("answers", description="target column: an answer, or lists of answers")
    scores: str | None = Field(
        None,
        description="target of numbers in [0, 1], one for each answer of a list; null: `scores` "
        "where the cache has it, else every answer is right",
    )
    answers_from: str | None = Field(
        None,
        description="file with the answers that can be given, in the order of the outputs: a JSON "
        "list, or one in each line; null: those of the training questions, the frequent first",
    )
    min_occurrences: int = Field(
        1,
        gt=0,
        description="answers of fewer training questions cannot be given (9 is usual for VQA v2); "
        "only without answers_from",
    )
    loss_scale: float = Field(
        500.0,
        gt=0,
        description="what the mean cross-entropy of questions and answers is multiplied by, 500 "
        "as released; 1 means by the number of answers",
    )
    head_weights: str | None = Field(
        None,
        description="safetensors file or checkpoint whose `pooler.dense` and `logit_fc` the head "
        "starts from; null: random",
    )
    head_answers: str | None = Field(
        None,
        description="file with the answers of the head in head_weights, whose rows are then "
        "copied by name and are 0 for other answers; null: the same answers in the same order",
    )
    top: int = Field(5, gt=0, description="answers of a prediction, best first")

    def learn(
        self, cache: FeatureCache, train: np.ndarray, others: Mapping[str, np.ndarray]
    ) -> AnswersTask:
        """Find the answers that can be given.

        Other splits may hold answers that are not among them: no prediction of those questions
        is right, and they count.

        Raises:
            TargetError: The column holds no answers, or training has fewer than two.
            ConfigError: A file of answers cannot be read, or settings contradict each other.
        """
        column = cache.target(self.target)
        if column.spec.kind not in _KINDS:
            raise TargetError(
                f"target {self.target!r}: holds {column.spec.kind!r}, vqa needs answers (a label "
                "or a list of labels). Name their column with --target."
            )
        if self.answers_from and self.min_occurrences > 1:
            raise ConfigError("task.min_occurrences", ["has no effect with answers_from"])
        if self.head_answers and not self.head_weights:
            raise ConfigError("task.head_answers", ["has no effect without head_weights"])
        codes, counts = np.unique(Labels.of(column, train).codes, return_counts=True)
        enough = counts >= self.min_occurrences
        codes, counts = codes[enough], counts[enough]
        found = label_names(column, codes[np.argsort(-counts, kind="stable")])
        if self.answers_from:
            answers = read_answers(self.answers_from, "task.answers_from")
            found = [answer for answer in found if answer in set(answers)]
        else:
            answers = tuple(found)
        if len(found) < 2:
            raise TargetError(
                f"target {self.target!r}: the training questions have {len(found)} answer(s) that "
                "can be given, needed at least two. Lower task.min_occurrences, or check "
                "task.answers_from."
            )
        return AnswersTask(config=self, answers=answers)

    def unlearnable(
        self, cache: FeatureCache, train: np.ndarray, held_out: np.ndarray
    ) -> np.ndarray:
        """(held_out,) bool: none; a question whose answer is not in training counts as wrong."""
        return np.zeros(len(held_out), dtype=bool)


class AnswersTask(TaskOptions):
    """Question answering with the answers that can be given."""

    name: Literal["vqa"] = "vqa"
    config: AnswersConfig
    answers: tuple[str, ...] = Field(description="in the order of the outputs")

    @property
    def target(self) -> str:
        """The column it learns."""
        return self.config.target

    @property
    def primary(self) -> str:
        """The metric that picks the best checkpoint."""
        return "accuracy"

    @property
    def higher_is_better(self) -> bool:
        """Always."""
        return True

    def make_model(self, parts: ModelParts) -> nn.Module:
        """CLIP-ViL's head on the pooled features: (B, A) logits."""
        return PooledModel(parts, AnswerHead(parts.network.out_width, len(self.answers)))

    def start(self, model: nn.Module) -> None:
        """Copy the released head, where one is named.

        Raises:
            ConfigError: It does not fit.
        """
        if self.config.head_weights is None:
            return
        assert isinstance(model, PooledModel)
        start = model.head.state_dict()
        tensors = head_tensors(self.config.head_weights, start)
        if self.config.head_answers is not None:
            known = read_answers(self.config.head_answers, "task.head_answers")
            for name in ("logit_fc.3.weight", "logit_fc.3.bias"):
                tensors[name] = self._rows_by_name(tensors[name], known)
        shapes = {name: (tuple(start[name].shape), tuple(tensors[name].shape)) for name in start}
        for name, (ours, theirs) in shapes.items():
            if ours != theirs:
                raise ConfigError(
                    "task.head_weights",
                    [
                        f"{self.config.head_weights}: {name} is {list(theirs)}, needed "
                        f"{list(ours)}. Name its answers with task.head_answers, or choose a "
                        "network whose output is as wide"
                    ],
                )
        model.head.load_state_dict(tensors)

    def _rows_by_name(self, rows: Tensor, known: tuple[str, ...]) -> Tensor:
        """(A, ...): the row of each answer, 0 for those that are not known."""
        if len(rows) != len(known):
            raise ConfigError(
                "task.head_answers",
                [f"holds {len(known)} answers, head_weights has {len(rows)}. Name its own list"],
            )
        place = {answer: at for at, answer in enumerate(known)}
        chosen = rows.new_zeros(len(self.answers), *rows.shape[1:])
        for at, answer in enumerate(self.answers):
            if answer in place:
                chosen[at] = rows[place[answer]]
        return chosen

    def reader(self, cache: FeatureCache, samples: np.ndarray) -> TargetReader:
        """(B, A) scores by answer *name*; 0 for every answer that is not a question's own."""
        found = ScoredAnswers.of(cache, self.config.target, self.config.scores, self.answers)
        found.check(samples)

        def read(chosen: np.ndarray) -> dict[str, Tensor]:
            return {self.target: torch.from_numpy(found.dense(chosen))}

        return read

    def loss(self, output: Tensor, targets: Mapping[str, Tensor], moment: Moment) -> Tensor:
        """Binary cross-entropy of every question and answer, averaged, then scaled.

        Accumulated batches are averaged by `fit`, so the released step (500 / 8 for each of 8
        batches, summed) is scale 500 here.
        """
        return soft_score_loss(output, targets[self.target], loss_scale=self.config.loss_scale)

    def metrics(self) -> MetricCollection:
        """`accuracy`: mean score of the answers given; `ceiling`: of the best that can be."""
        from torchmetrics import MetricCollection

        from ..metrics.running import BestScore, SoftAccuracy

        # Not in groups: both may have counted the same in the first batch.
        both = {"accuracy": SoftAccuracy(), "ceiling": BestScore()}
        return MetricCollection(both, compute_groups=False)  # type: ignore[arg-type]

    def update_metrics(
        self, metrics: MetricCollection, output: Tensor, targets: Mapping[str, Tensor]
    ) -> None:
        """Count one batch of logits."""
        metrics.update(output, targets[self.target])

    def predictions(self, output: Tensor) -> dict[str, list[object]]:
        """`answer` and `score` (its probability), and the same of the best few."""
        scores, places = output.float().sigmoid().topk(min(self.config.top, len(self.answers)))
        answers = [[self.answers[place] for place in row] for row in places.tolist()]
        return {
            "answer": [row[0] for row in answers],
            "score": scores[:, 0].tolist(),
            "answers": list(answers),
            "scores": scores.tolist(),
        }
