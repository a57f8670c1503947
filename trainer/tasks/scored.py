"""Answers of questions with their soft scores, as they are stored.

B questions, A answers that can be given, m answers of all questions together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cache_schema import Ragged

from .base import TargetError, name_samples
from .labels import MISSING

if TYPE_CHECKING:
    from cache_schema import FeatureCache, TargetColumn

_USUAL_SCORES = "scores"


@dataclass(frozen=True, eq=False)
class ScoredAnswers:
    """The answers of every question of a cache.

    Attributes:
        name: The column.
        places: (m,) int64, the output of each stored answer; -1 for one that cannot be given.
        is_answer: (m,) bool, False for a missing one.
        offsets: (questions + 1,) int64.
        num_answers: A.
        scores: Of each question, one for each of its answers; None where every answer is right.
    """

    name: str
    places: np.ndarray
    is_answer: np.ndarray
    offsets: np.ndarray
    num_answers: int
    scores: Ragged | None

    @classmethod
    def of(
        cls, cache: FeatureCache, target: str, scores: str | None, answers: Sequence[str]
    ) -> ScoredAnswers:
        """Read the columns.

        Raises:
            CacheError: A column that was named is not there.
            TargetError: The scores are not lists of numbers.
        """
        column = cache.target(target)
        codes = column.values
        offsets = np.arange(len(codes) + 1) if column.offsets is None else column.offsets
        is_answer = np.ones(len(codes), bool) if column.spec.classes is None else codes != MISSING
        found = _scores(cache, scores, has_lists=column.offsets is not None)
        return cls(
            target,
            _places(column, answers),
            is_answer,
            offsets,
            len(answers),
            found,
        )

    def check(self, samples: np.ndarray) -> None:
        """Look at what will be read.

        Raises:
            TargetError: A question's answer is missing, which an empty list is not; a score is
                missing or not in [0, 1]; no question has any answer.
        """
        lengths = np.diff(self.offsets)[samples]
        rows = self._rows(samples)
        answered = np.repeat(np.arange(len(samples)), lengths)[self.is_answer[rows]]
        has_none = ~np.isin(np.arange(len(samples)), answered)
        # A list may be empty: in VQA v2, people may agree on no frequent answer. A missing one
        # has an entry that is no answer, as a missing answer of its own is.
        missing = samples[has_none if has_none.all() else has_none & (lengths > 0)]
        if missing.size:
            raise TargetError(
                f"target {self.name!r}: {name_samples(missing)} without an answer. "
                "Answer them, or leave these rows out of the data."
            )
        if self.scores is not None:
            uneven = samples[self.scores.lengths[samples] != lengths]
            if uneven.size:
                raise TargetError(
                    f"target {self.name!r}: {name_samples(uneven)} with more or fewer scores than "
                    "answers, needed one for each. Correct the rows, or leave the scores out."
                )
        scores = self._scores_of(samples, rows)
        strange = ~((scores >= 0) & (scores <= 1))
        if strange.any():
            bad = np.unique(np.repeat(samples, lengths)[strange])
            raise TargetError(
                f"target {self.name!r}: {name_samples(bad)} with a score outside 0 to 1. "
                "Correct these rows."
            )

    def dense(self, samples: np.ndarray) -> np.ndarray:
        """(B, A) float32 scores; 0 for every answer that is not a question's own."""
        rows = self._rows(samples)
        questions = np.repeat(np.arange(len(samples)), np.diff(self.offsets)[samples])
        known = self.places[rows] >= 0
        marks = np.zeros((len(samples), self.num_answers), np.float32)
        where = (questions[known], self.places[rows][known])
        np.maximum.at(marks, where, self._scores_of(samples, rows)[known])
        return marks

    def _scores_of(self, samples: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(n,) float32: scores of the answers of these questions, which are as many."""
        # By question: a missing list of answers has an entry, its list of scores has none.
        if self.scores is None:
            return np.ones(len(rows), np.float32)
        return self.scores.take(samples).values.astype(np.float32)

    def _rows(self, samples: np.ndarray) -> np.ndarray:
        """(n,) int64: where the answers of these questions are stored."""
        rows: np.ndarray = Ragged(np.arange(len(self.places)), self.offsets).take(samples).values
        return rows


def _scores(cache: FeatureCache, name: str | None, *, has_lists: bool) -> Ragged | None:
    stored = {spec.name for spec in cache.manifest.targets}
    if name is None and not (has_lists and _USUAL_SCORES in stored):
        return None
    column = cache.target(name or _USUAL_SCORES)
    if column.spec.kind != "numbers" or column.offsets is None or not has_lists:
        raise TargetError(
            f"target {column.spec.name!r}: holds {column.spec.kind!r}, needed lists of numbers "
            "beside lists of answers. Leave task.scores out, or store them so."
        )
    return Ragged(column.values, column.offsets)


def _places(column: TargetColumn, answers: Sequence[str]) -> np.ndarray:
    """(m,) int64: the output of each stored answer, -1 where there is none."""
    place = {answer: at for at, answer in enumerate(answers)}
    if column.spec.classes is not None:
        of_code = np.array([place.get(name, -1) for name in column.spec.classes] + [-1])
        # The code of a missing answer is -1, the entry at the end.
        found: np.ndarray = of_code[column.values]
        return found
    codes, inverse = np.unique(column.values, return_inverse=True)
    return np.array([place.get(str(code), -1) for code in codes.tolist()])[inverse]
