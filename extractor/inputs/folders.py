"""Folders of images or videos: splits and classes from the names of their subfolders.

folder/a.jpg                     one split, no target
folder/CLASS/a.jpg               one split, target `label`
folder/SPLIT/[CLASS/]a.jpg       SPLIT is train, validation, test or another usual spelling
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from .errors import DataError

_SUFFIXES = {
    "image": (
        ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
        ".jfif", ".jp2", ".avif",
    ),
    "video": (
        ".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
        ".ogv",
    ),
    "regions": (".npz",),
}  # fmt: skip


def suffixes(role: str) -> tuple[str, ...]:
    """Endings, in lower case, of the files of images, videos or regions."""
    return _SUFFIXES[role]


def split_folders(
    folder: Path, role: str, split_of: Callable[[Path], str | None]
) -> dict[str, Path] | None:
    """Split to its folder; None where there is no such file below `folder`.

    Args:
        folder: What the user named.
        role: `image` or `video`.
        split_of: The split that a folder's name stands for, or None.
    """
    if next(_files(folder, role), None) is None:
        return None
    inside = [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    above = (os.path.realpath(folder),)
    filled = [p for p in inside if next(_files(p, role, above), None) is not None]
    splits = [split_of(path) for path in filled]
    if filled and None not in splits and not any(_directly(folder, role)):
        found: dict[str, Path] = {}
        for split, path in zip(splits, filled, strict=True):
            if str(split) in found:
                raise DataError(
                    f"{folder}: split {split!r} is there as {found[str(split)].name!r} and "
                    f"{path.name!r}. Name the folders: train=PATH."
                )
            found[str(split)] = path
        return found
    return {split_of(folder) or "train": folder}


def unread_files(folder: Path, role: str) -> str | None:
    """How many files of the folder of one split have other endings, in words; None if none has."""
    names = [path.name for path in _walk(folder) if not path.name.startswith(".")]
    others = [name for name in names if not _is_one(name, role)]
    if not others:
        return None
    endings = ", ".join(sorted({Path(name).suffix.lower() or "none" for name in others})[:5])
    return f"{folder}: {len(others):,} files with other endings are not read ({endings})"


def list_media(folder: Path, role: str) -> dict[str, list[str]]:
    """Columns of the folder of one split: paths, `file` (below the folder), and maybe `label`.

    Raises:
        DataError: There are files both beside the folders of classes and in them.
    """
    names = sorted(os.path.relpath(path, folder) for path in _files(folder, role))
    columns = {role: [str(folder / name) for name in names], "file": names}
    classes = [name.split(os.sep)[0] if os.sep in name else "" for name in names]
    if all(classes):
        # One folder more on the way to the files is no class.
        return columns if len(set(classes)) == 1 else {**columns, "label": classes}
    if any(classes):
        inside, beside = names[classes.index(max(classes))], names[classes.index("")]
        raise DataError(
            f"{folder}: has {beside!r} beside the folders and {inside!r} in one, needed all in "
            "folders of classes or none. Move them, or name one folder."
        )
    return columns


def _directly(folder: Path, role: str) -> Iterator[Path]:
    return (p for p in folder.iterdir() if _is_one(p.name, role) and p.is_file())


def _files(folder: Path, role: str, above: tuple[str, ...] = ()) -> Iterator[Path]:
    return (path for path in _walk(folder, above) if _is_one(path.name, role))


def _walk(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Every file below a folder; links are followed, but never back to a folder on the way."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                yield folder / entry.name
            elif not entry.name.startswith("."):
                yield from _walk(folder / entry.name, (*above, real))


def _is_one(name: str, role: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(_SUFFIXES[role])
