"""MSVD with its usual splits: lists of clips, and the captions in either of their two forms.

train_list.txt, val_list.txt, test_list.txt   one clip per line: 1,200, 100 and 670 of them
raw-captions.pkl           clip -> list of captions, each a list of words (as CLIP4Clip has it)
AllVideoDescriptions.txt   `clip caption` per line, `#` begins a comment (Microsoft's file)

A clip has about 40 captions, in the test split as well.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..errors import DataError
from .captions_pickle import read_captions
from .folder import find_file, missing, video_paths
from .table import FormatSource, Table

_PLACES = ("", "msvd_data")
_LISTS = {"train": "train_list.txt", "validation": "val_list.txt", "test": "test_list.txt"}
_CAPTIONS = ("raw-captions.pkl", "AllVideoDescriptions.txt")
_VIDEOS = ("YouTubeClips", "MSVD_Videos", "Compress_Videos", "videos", "")


def open_msvd(root: Path) -> FormatSource:
    """Find the lists and the captions.

    Raises:
        DataNotFoundError: There is no list, or no captions.
    """
    captions = find_file(root, _CAPTIONS, _PLACES)
    lists = {split: find_file(root, (name,), _PLACES) for split, name in _LISTS.items()}
    if captions is None:
        raise missing("msvd", root, " or ".join(_CAPTIONS))
    files = {split: (path, captions) for split, path in lists.items() if path is not None}
    if not files:
        raise missing("msvd", root, ", ".join(_LISTS.values()))
    return FormatSource(files, partial(_read, root, captions, files))


def _read(
    root: Path, path: Path, files: dict[str, tuple[Path, Path]], wanted: frozenset[str]
) -> dict[str, Table]:
    captions = read_captions(path) if path.suffix == ".pkl" else _descriptions(path)
    return {
        split: _table(root, path, listed, captions)
        for split, (listed, _) in files.items()
        if not wanted or split in wanted
    }


def _table(root: Path, path: Path, listed: Path, captions: dict[str, list[str]]) -> Table:
    ids = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines()]
    ids = [name for name in ids if name]
    silent = [name for name in ids if not captions.get(name)]
    if not ids or silent:
        found = f"no caption of {silent[0]!r}" if ids else "captions, but no clip is listed"
        raise DataError(
            f"{path}: has {found}, needed captions of every clip of {listed}. Get both again, "
            "from one source."
        )
    paths = video_paths("msvd", root, _VIDEOS, ids)
    return Table(
        {
            "video": [paths[name] for name in ids],
            "video_id": ids,
            "text": [captions[name] for name in ids],
            "sentence_id": [[f"{name}#{k}" for k in range(len(captions[name]))] for name in ids],
        }
    )


def _descriptions(path: Path) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, caption = line.partition(" ")
        if caption.strip() and not line.startswith("#"):
            captions.setdefault(name, []).append(" ".join(caption.split()))
    return captions
