"""VQA v2: LXMERT's json files where they are, as the released code reads them, else official ones.

Official:  v2_OpenEnded_mscoco_{train2014,val2014,test-dev2015,test2015}_questions.json
           {"questions": [{"question_id", "image_id", "question"}]}
           v2_mscoco_{train2014,val2014}_annotations.json
           {"annotations": [{"question_id", "multiple_choice_answer", "answers": [{"answer"}]}]}
LXMERT:    train.json, nominival.json (both train), minival.json (validation), test.json

LXMERT's minival are 5,000 of the val2014 images and nominival the others. Images are COCO's.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import DataError
from .answer_tables import (
    ANSWER_CLASSES,
    Question,
    lxmert_classes,
    lxmert_questions,
    question_table,
)
from .answers import soft_scores, vocabulary
from .coco import CocoImages
from .folder import find_file, missing, read_json, records
from .table import FormatSource, Table

_LXMERT_PLACES = ("", "vqa", "data/vqa")
_LXMERT = {
    "train": ("train.json", "nominival.json"),
    "validation": ("minival.json",),
    "test": ("test.json",),
}
_PLACES = (
    "", "questions", "Questions", "annotations", "Annotations", "vqa", "vqav2", "v2",
)  # fmt: skip
_YEARS = {
    "train": "train2014",
    "validation": "val2014",
    "testdev": "test-dev2015",
    "test": "test2015",
}
_ANNOTATED = ("train", "validation")


def open_vqa2(root: Path) -> FormatSource:
    """Find the files of one of the two layouts.

    Raises:
        DataNotFoundError: Neither is there, or a split has questions and lacks its annotations.
    """
    if (marker := find_file(root, ("minival.json", "nominival.json"), _LXMERT_PLACES)) is not None:
        folder = marker.parent
        files = {s: tuple(p for n in names if (p := folder / n).is_file())
                 for s, names in _LXMERT.items()}  # fmt: skip
        files = {split: paths for split, paths in files.items() if paths}
        return FormatSource(files, partial(_read_lxmert, root, folder, files))
    official: dict[str, tuple[Path, ...]] = {}
    for split, year in _YEARS.items():
        names = [f"v2_OpenEnded_mscoco_{year}_questions.json"]
        if split in _ANNOTATED:
            names.append(f"v2_mscoco_{year}_annotations.json")
        found = [find_file(root, (name,), _PLACES) for name in names]
        present = tuple(path for path in found if path is not None)
        if 0 < len(present) < len(names):
            lacking = [name for name, path in zip(names, found, strict=True) if path is None]
            raise missing("vqa2", root, f"{lacking[0]!r} beside {present[0].name!r}")
        if present:
            official[split] = present
    if not official:
        needed = f"v2_OpenEnded_mscoco_train2014_questions.json and so on, or {_LXMERT['train']!r}"
        raise missing("vqa2", root, needed)
    return FormatSource(official, partial(_read_official, root, official))


def _read_lxmert(
    root: Path, folder: Path, files: dict[str, tuple[Path, ...]], wanted: frozenset[str]
) -> dict[str, Table]:
    images = CocoImages("vqa2", root)
    found = {
        split: [question for path in paths for question in lxmert_questions(path)]
        for split, paths in files.items()
        if not wanted or split in wanted
    }
    classes = lxmert_classes(
        find_file(folder, (ANSWER_CLASSES,)),
        lambda: [q for paths in files.values() for path in paths for q in lxmert_questions(path)],
    )
    return {
        split: question_table(questions, images.path_of_name, classes)
        for split, questions in found.items()
    }


def _read_official(
    root: Path, files: dict[str, tuple[Path, ...]], wanted: frozenset[str]
) -> dict[str, Table]:
    images = CocoImages("vqa2", root)
    asked = [split for split in files if not wanted or split in wanted]
    # The answers to choose among are those of train and val, whatever is read.
    annotated = [split for split in _ANNOTATED if split in files]
    given = {split: _annotations(files[split][1]) for split in annotated}
    classes = vocabulary(best for notes in given.values() for best, _ in notes.values())
    tables = {}
    for split in asked:
        path = files[split][0]
        entries = records(
            path, read_json(path), "questions", ("question_id", "image_id", "question")
        )
        notes = given.get(split)
        questions = [_question(path, entry, notes) for entry in entries]
        folder = "test2015" if split.startswith("test") else _YEARS[split]
        tables[split] = question_table(questions, partial(images.path_of_id, folder), classes)
    return tables


def _question(
    path: Path, entry: dict[str, Any], notes: dict[int, tuple[str, tuple[str, ...]]] | None
) -> Question:
    scores = None
    if notes is not None:
        if entry["question_id"] not in notes:
            raise DataError(
                f"{path}: question {entry['question_id']} has no annotation, needed one for each. "
                "Questions and annotations must be of one release."
            )
        scores = soft_scores(notes[entry["question_id"]][1])
    return Question(str(entry["question_id"]), str(entry["image_id"]), entry["question"], scores)


def _annotations(path: Path) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Question to its commonest answer and the answers of all ten people."""
    document = read_json(path, _only_the_answer)
    needed = ("question_id", "multiple_choice_answer", "answers")
    return {
        entry["question_id"]: (entry["multiple_choice_answer"], tuple(entry["answers"]))
        for entry in records(path, document, "annotations", needed)
    }


def _only_the_answer(found: dict[str, Any]) -> Any:
    """Six million answers as words, not as objects of three entries each."""
    return sys.intern(found["answer"]) if "answer_id" in found else found
