"""Balanced GQA: LXMERT's json files where they are, as the released code does, else official ones.

Official:  {train,val,testdev,test}_balanced_questions.json
           {question_id: {"imageId", "question", "answer" (not in test)}}
LXMERT:    train.json, valid.json (both train), testdev.json, submit.json (test)
Images:    images/<image id>.jpg

As in the released code, train has the train and val questions, the run is chosen and reported on
testdev, and the answers are the 1,842 of train and val. test is answered by the server only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from .answer_tables import (
    ANSWER_CLASSES,
    Question,
    lxmert_classes,
    lxmert_questions,
    question_table,
)
from .folder import find_file, media_folder, missing, read_json, records
from .table import FormatSource, Table

_LXMERT_PLACES = ("", "gqa", "data/gqa")
_LXMERT = {
    "train": ("train.json", "valid.json"),
    "testdev": ("testdev.json",),
    "test": ("submit.json", "test.json"),
}
_OFFICIAL = {
    "train": ("train_balanced_questions.json", "val_balanced_questions.json"),
    "testdev": ("testdev_balanced_questions.json",),
    "test": ("test_balanced_questions.json",),
}
_PLACES = ("", "questions", "questions1.2", "data")
_IMAGES = ("images", "", "allImages/images", "gqa/images", "data/gqa/images", "../images")


def open_gqa(root: Path) -> FormatSource:
    """Find the files of one of the two layouts.

    Raises:
        DataNotFoundError: Neither is there.
    """
    marker = find_file(root, ("testdev.json", "train.json", "valid.json"), _LXMERT_PLACES)
    names = _OFFICIAL if marker is None else _LXMERT
    places = _PLACES if marker is None else (str(marker.parent.relative_to(root)),)
    files: dict[str, tuple[Path, ...]] = {}
    for split, candidates in names.items():
        found = [find_file(root, (name,), places) for name in candidates]
        if paths := tuple(path for path in found if path is not None):
            files[split] = paths if split == "train" else paths[:1]
    if not files:
        raise missing("gqa", root, "train_balanced_questions.json and so on, or train.json")
    return FormatSource(files, partial(_read, root, files, marker is not None))


def _read(
    root: Path, files: dict[str, tuple[Path, ...]], is_lxmert: bool, wanted: frozenset[str]
) -> dict[str, Table]:
    read = lxmert_questions if is_lxmert else _official_questions

    def of_train() -> Sequence[Question]:
        return [question for path in files.get("train", ()) for question in read(path)]

    found = {
        split: [question for path in paths for question in read(path)]
        for split, paths in files.items()
        if not wanted or split in wanted
    }
    listed = find_file(next(iter(files.values()))[0].parent, (ANSWER_CLASSES,))
    classes = lxmert_classes(listed, lambda: found["train"] if "train" in found else of_train())
    tables = {}
    for split, questions in found.items():
        names = [f"{question.image_id}.jpg" for question in questions[:20]]
        folder = media_folder("gqa", root, _IMAGES, names)
        tables[split] = question_table(questions, partial(_image, folder), classes)
    return tables


def _image(folder: Path, image_id: str) -> str:
    return str(folder / f"{image_id}.jpg")


def _official_questions(path: Path) -> list[Question]:
    document = read_json(path)
    if isinstance(document, dict):
        document = [{"id": name, **entry} for name, entry in document.items()]
    return [
        Question(
            e["id"], str(e["imageId"]), e["question"], {e["answer"]: 1.0} if "answer" in e else None
        )
        for e in records(path, document, None, ("id", "imageId", "question"))
    ]
