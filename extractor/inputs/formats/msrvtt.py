"""MSR-VTT with the usual retrieval splits, from the files that CLIP4Clip hands out.

MSRVTT_data.json            {"sentences": [{"video_id", "caption"}, ...]}: all 200,000 captions
MSRVTT_train.9k.csv         column video_id: 9,000 training videos (or the 7,010 of train.7k)
MSRVTT_JSFUSION_test.csv    columns video_id, sentence: the 1k-A test, one caption per video

There is no validation split; the released code chooses its epoch on the test split.
"""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

from ..errors import DataError
from .folder import find_file, missing, need_file, read_json, records, video_paths
from .table import FormatSource, Table

_PLACES = ("", "msrvtt_data", "annotation", "annotations")
_CAPTIONS = ("MSRVTT_data.json",)
# The paper trains on 9k, so that list is taken where both are there.
_TRAIN = ("MSRVTT_train.9k.csv", "MSRVTT_train.7k.csv")
_TEST = ("MSRVTT_JSFUSION_test.csv",)
_VIDEOS = ("videos/all", "videos", "all", "MSRVTT_Videos", "Compress_Videos", "")


def open_msrvtt(root: Path) -> FormatSource:
    """Find captions and lists of videos; a folder may have one of the two splits only.

    Raises:
        DataNotFoundError: Both lists are missing, or the captions of the training videos are.
    """
    train, test = find_file(root, _TRAIN, _PLACES), find_file(root, _TEST, _PLACES)
    files: dict[str, tuple[Path, ...]] = {}
    if train is not None:
        files["train"] = (train, need_file("msrvtt", root, _CAPTIONS, _PLACES))
    if test is not None:
        files["test"] = (test,)
    if not files:
        raise missing("msrvtt", root, f"{' or '.join(_TRAIN)}, and {_TEST[0]}")
    return FormatSource(files, partial(_read, root, files))


def _read(
    root: Path, files: dict[str, tuple[Path, ...]], wanted: frozenset[str]
) -> dict[str, Table]:
    tables = {}
    if "train" in files and (not wanted or "train" in wanted):
        listed, captions = files["train"]
        tables["train"] = _train(root, listed, captions)
    if "test" in files and (not wanted or "test" in wanted):
        rows = _rows(files["test"][0], ("video_id", "sentence"))
        ids = [row["video_id"] for row in rows]
        names = [[row.get("key") or f"{row['video_id']}#test"] for row in rows]
        tables["test"] = _table(root, ids, [[row["sentence"]] for row in rows], names)
    return tables


def _train(root: Path, listed: Path, captions: Path) -> Table:
    ids = [row["video_id"] for row in _rows(listed, ("video_id",))]
    texts: dict[str, list[str]] = {video: [] for video in ids}
    names: dict[str, list[str]] = {video: [] for video in ids}
    sentences = records(captions, read_json(captions), "sentences", ("video_id", "caption"))
    for position, sentence in enumerate(sentences):
        if (video := sentence["video_id"]) in texts:
            texts[video].append(sentence["caption"])
            names[video].append(str(sentence.get("sen_id", position)))
    silent = [video for video in ids if not texts[video]]
    if silent:
        raise DataError(
            f"{captions}: has no caption of {silent[0]!r} ({len(silent)} of the {len(ids)} videos "
            f"of {listed.name} lack one). Use the json that has the captions of all 10,000 videos."
        )
    return _table(root, ids, [texts[v] for v in ids], [names[v] for v in ids])


def _table(
    root: Path, ids: list[str], texts: list[list[str]], sentence_ids: list[list[str]]
) -> Table:
    paths = video_paths("msrvtt", root, _VIDEOS, ids)
    return Table(
        {
            "video": [paths[video] for video in ids],
            "video_id": ids,
            "text": texts,
            "sentence_id": sentence_ids,
        }
    )


def _rows(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if any(name not in columns for name in needed):
            raise DataError(
                f"{path}: has the columns {[*columns]!r}, needed {[*needed]!r}. Get it again."
            )
        rows = [row for row in reader if row["video_id"]]
    if not rows:
        raise DataError(f"{path}: has no rows, needed one per video. Get it again.")
    return rows
