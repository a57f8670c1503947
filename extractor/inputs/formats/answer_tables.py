"""Questions with scored answers as a table, and the json layout that LXMERT made of them.

LXMERT's files, which the released CLIP-ViL code of the paper reads: a list of
{"question_id", "img_id", "sent", "label": {answer: score}} (no label where none is public), and
trainval_ans2label.json {answer: class}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from .folder import read_json, records
from .table import Table

ANSWER_CLASSES = "trainval_ans2label.json"


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        scores: Answer to its score from 0 to 1; None where no answer is public.
    """

    question_id: str
    image_id: str
    text: str
    scores: Mapping[str, float] | None


def question_table(
    questions: Sequence[Question], image_path: Callable[[str], str], classes: tuple[str, ...]
) -> Table:
    """The questions by column; answers outside `classes` are left out, as in the released files.

    A split has the columns `answers` and `scores` where a question of it has public answers.
    """
    code_of = {answer: code for code, answer in enumerate(classes)}
    columns: dict[str, list[Any]] = {
        "image": [image_path(q.image_id) for q in questions],
        "image_id": [q.image_id for q in questions],
        "question_id": [q.question_id for q in questions],
        "text": [q.text for q in questions],
    }
    if all(question.scores is None for question in questions):
        return Table(columns)
    known = [
        [(code_of[a], float(s)) for a, s in (q.scores or {}).items() if a in code_of]
        for q in questions
    ]
    columns["answers"] = [[code for code, _ in pairs] for pairs in known]
    columns["scores"] = [[score for _, score in pairs] for pairs in known]
    return Table(columns, {"answers": classes})


def lxmert_questions(path: Path) -> list[Question]:
    """The questions of one of LXMERT's files."""
    return [
        Question(str(e["question_id"]), str(e["img_id"]), e["sent"], e.get("label"))
        for e in records(path, read_json(path), None, ("question_id", "img_id", "sent"))
    ]


def lxmert_classes(
    path: Path | None, questions: Callable[[], Sequence[Question]]
) -> tuple[str, ...]:
    """The answers in the order of their classes.

    Args:
        path: `trainval_ans2label.json`, or None where it is missing.
        questions: Then gives those whose answers are the classes, sorted.

    Raises:
        DataError: The classes of the file are not 0, 1, 2 ...
    """
    if path is None:
        return tuple(sorted({answer for q in questions() for answer in q.scores or {}}))
    codes = read_json(path)
    if not isinstance(codes, dict) or sorted(codes.values()) != [*range(len(codes))]:
        raise DataError(
            f"{path}: needed a mapping from each answer to its class, which are 0, 1, 2 and so on. "
            "Get it again, or remove it to take the answers of the questions."
        )
    return tuple(sorted(codes, key=codes.__getitem__))
