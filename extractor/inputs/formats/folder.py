"""Find files and media below a folder, and say what is missing and what is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, DataNotFoundError

_MAX_NAMED = 12
VIDEO_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv", ".mov", ".m4v", ".mpg", ".mpeg")


def find_file(root: Path, names: Iterable[str], places: Sequence[str] = ("",)) -> Path | None:
    """The first of some file names, looked for in each place below `root` in turn."""
    for place in places:
        for name in names:
            if (path := root / place / name).is_file():
                return path
    return None


def need_file(what: str, root: Path, names: Sequence[str], places: Sequence[str] = ("",)) -> Path:
    """Like `find_file`, for a file that the data set cannot do without.

    Raises:
        DataNotFoundError: Names the file and what the folder has.
    """
    found = find_file(root, names, places)
    if found is None:
        raise missing(what, root, " or ".join(names))
    return found


def missing(what: str, root: Path, needed: str) -> DataNotFoundError:
    """The error for something that the folder lacks."""
    return DataNotFoundError(
        f"{root}: found {listing(root)}, as {what} data it needs {needed}. "
        "docs/data.md shows the layout and where to get each file."
    )


def listing(folder: Path) -> str:
    """The names in a folder, as short as they are useful."""
    if not folder.is_dir():
        return "no folder"
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"{names[:_MAX_NAMED]!r}{more}" if names else "an empty folder"


def media_folder(what: str, root: Path, places: Sequence[str], names: Sequence[str]) -> Path:
    """The first place below `root` that has one of these files.

    Only some files are looked for: one that is missing by itself is a sample that cannot be read,
    which the extraction reports by name; a folder without any is a wrong layout.

    Raises:
        DataNotFoundError: No place has any of them; names the first and the places.
    """
    for place in places:
        folder = root / place
        if folder.is_dir() and any((folder / name).is_file() for name in names):
            return folder.resolve()
    tried = ", ".join(repr(f"{place or '.'}/") for place in places[:_MAX_NAMED])
    raise missing(what, root, f"{names[0]!r} (the first of the media files) in one of {tried}")


def video_paths(what: str, root: Path, places: Sequence[str], ids: Sequence[str]) -> dict[str, str]:
    """Id to the absolute path of its video; an absent one gets the path it should have.

    Raises:
        DataNotFoundError: No place below `root` has any of the videos.
    """
    wanted = set(ids)
    for place in places:
        folder = root / place
        if not folder.is_dir():
            continue
        found = {
            path.stem: str(path.absolute())
            for path in sorted(folder.iterdir(), reverse=True)
            if path.suffix.lower() in VIDEO_SUFFIXES and path.stem in wanted
        }
        if found:
            return {i: found.get(i, str((folder / f"{i}.mp4").absolute())) for i in ids}
    tried = ", ".join(repr(f"{place or '.'}/") for place in places)
    raise missing(what, root, f"videos such as '{ids[0]}.mp4' in one of {tried}")


def read_json(path: Path, shrink: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """A json file.

    Args:
        path: The file.
        shrink: Applied to every object as soon as it is read, to keep only what is needed of it.

    Raises:
        DataError: It is not json; names line and column.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return json.load(file, object_hook=shrink)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: is not json (line {error.lineno}, column {error.colno}: {error.msg}). "
            "It may be cut short: get it again."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 ({error.reason}). Get it again.") from error


def records(
    path: Path, document: Any, key: str | None, needed: Sequence[str]
) -> list[dict[str, Any]]:
    """The list under `key` of a json document, or the document itself, each entry checked.

    Raises:
        DataError: There is no such list, or an entry lacks a needed key; names the entry.
    """
    where = "its list" if key is None else repr(key)
    listed = document if key is None else _under(path, document, key)
    if not isinstance(listed, list):
        raise DataError(
            f"{path}: {where} is {type(listed).__name__}, needed a list. Is it the right file?"
        )
    for position, entry in enumerate(listed):
        lacking = needed if not isinstance(entry, dict) else [k for k in needed if k not in entry]
        if lacking:
            has = sorted(entry) if isinstance(entry, dict) else repr(entry)[:60]
            raise DataError(
                f"{path}: entry {position} of {where} has {has}, needed also {[*lacking]!r}. "
                "Is it the right file, and complete?"
            )
    return listed


def _under(path: Path, document: Any, key: str) -> Any:
    if not isinstance(document, Mapping) or key not in document:
        has = sorted(document) if isinstance(document, Mapping) else type(document).__name__
        raise DataError(f"{path}: found {has}, needed a key {key!r}. Is it the right file?")
    return document[key]
