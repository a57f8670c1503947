"""From what a user names to the files of each split, without reading a row.

This is all that a second run on a finished cache needs, so nothing here imports pandas or datasets.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from cache_schema import looks_like_url

from .config import DataConfig, Role
from .docstrings import BUILDER_VERSION
from .errors import DataError, DataNotFoundError
from .folders import split_folders
from .formats import open_format, parse_format

Kind = Literal["csv", "tsv", "json", "parquet", "arrow", "hub", "builtin", "format", "media"]

BUILTIN = "python-docstrings"
KINDS: dict[str, Kind] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "json",
    ".ndjson": "json",
    ".json": "json",
    ".parquet": "parquet",
}
_SPLIT_NAMES = {
    "training": "train",
    "dev": "validation",
    "val": "validation",
    "valid": "validation",
    "eval": "validation",
    "testing": "test",
}
_ORDER = ("train", "validation", "test")
_SPLIT_WORD = r"(train|training|dev|val|valid|validation|eval|test|testing)"
_SPLIT_IN_STEM = re.compile(rf"^{_SPLIT_WORD}(?=$|[-_.\d])|(?<=[-_.]){_SPLIT_WORD}$", re.IGNORECASE)
_SPLIT_FOLDER = re.compile(rf"{_SPLIT_WORD}[-_]?\d*", re.IGNORECASE)
_NAMED = re.compile(r"([A-Za-z][\w-]*)=(.+)", re.DOTALL)
_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")


@dataclass(frozen=True)
class Location:
    """Where the rows of one split lie.

    Attributes:
        split: Its name; None where only loading can tell, as on the hub.
        paths: Files of one kind, or one folder of arrow files, images or videos.
        hub_id: Repository of a hub data set.
        hub_config: Its configuration.
        format: Of a data set of the paper: its format and the folder it lies in.
        root: Folder of the relative paths in its rows; None where that is not known.
        media: Of a folder: whether its files are images or videos.
    """

    kind: Kind
    split: str | None
    paths: tuple[Path, ...] = ()
    hub_id: str | None = None
    hub_config: str | None = None
    format: tuple[str, Path] | None = None
    root: Path | None = None
    media: Role | None = None

    def __str__(self) -> str:
        return self.hub_id or ", ".join(map(str, self.paths)) or BUILTIN


def normalise_split(name: str) -> str:
    """`train`, `validation` and `test` for their usual spellings; other names as they are."""
    return _SPLIT_NAMES.get(name.lower(), name if name.lower() not in _ORDER else name.lower())


def ordered_splits(names: Iterable[str]) -> list[str]:
    """Train, validation, test, then others in the given order."""
    given = list(dict.fromkeys(names))
    return [n for n in _ORDER if n in given] + [n for n in given if n not in _ORDER]


def locate(config: DataConfig) -> list[Location]:
    """Find the files of every split.

    Raises:
        DataNotFoundError: A path does not exist; names the nearest that does.
        DataError: A file's kind is not known, a folder has no data files that can be told apart,
            or a file is given twice.
    """
    locations: dict[str | None, Location] = {}
    for location in [
        found for entry in config.data for found in _locate_entry(entry, config.reads)
    ]:
        other = locations.get(location.split)
        if other is None:
            locations[location.split] = location
        elif other.kind == location.kind and other.kind in KINDS.values():
            twice = {*map(Path.resolve, other.paths)} & {*map(Path.resolve, location.paths)}
            if twice:
                raise DataError(
                    f"--data: {min(twice)} is given twice, so that each of its rows would be there "
                    "twice. Name it once."
                )
            root = other.root if other.root == location.root else None
            paths = other.paths + location.paths
            locations[location.split] = replace(other, paths=paths, root=root)
        else:
            raise DataError(
                f"--data: split {location.split!r} comes from both {other} and {location}, needed "
                "one source per split. Name the splits: train=PATH."
            )
    named = [split for split in locations if split is not None]
    ordered = [locations[split] for split in ordered_splits(named)]
    return ordered + [place for split, place in locations.items() if split is None]


def data_stamp(config: DataConfig) -> dict[str, JsonValue]:
    """Path, size and time of change of every file: equal stamps mean that nothing was touched.

    A hub data set is stamped by its commit, which is asked for over the network, and by null
    where there is none, because then only the local hub cache can be read. Images, videos and
    regions need a look at the rows, which name them; `media` is the sha256 of all their stamps.
    """
    stamp: dict[str, JsonValue] = {}
    if config.reads != ("text",):
        from .opening import media_stamp

        stamp["media"] = media_stamp(config)
    places: list[JsonValue] = []
    for place in locate(config):
        paths = () if place.kind == "media" else place.paths
        files = [f for path in paths for f in ([path] if path.is_file() else _files(path))]
        places.append(
            {
                "kind": place.kind,
                "split": place.split,
                "files": [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in files],
                "hub": [
                    place.hub_id,
                    place.hub_config,
                    hub_commit(place.hub_id) if place.hub_id else None,
                ],
                "python": [BUILDER_VERSION, sys.version] if place.kind == "builtin" else None,
            }
        )
    return {**stamp, "places": places, "config": json.loads(config.model_dump_json())}


def _locate_entry(entry: str, reads: Sequence[Role]) -> list[Location]:
    split, text = None, entry
    named = _NAMED.fullmatch(entry)
    if named and not Path(entry).exists():
        split, text = normalise_split(named[1]), named[2]
    if text == BUILTIN:
        return [Location("builtin", split)]
    if (found_format := parse_format(text)) is not None:
        if split is not None:
            raise DataError(
                f"{entry}: has splits of its own. Name them with --split: --data {text}"
            )
        files = open_format(*found_format).all_files()
        return [Location("format", None, files, format=found_format)]
    path = Path(text).expanduser()
    if path.is_dir():
        found = _locate_folder(path, reads)
        if split is not None and len({place.split for place in found}) > 1:
            raise DataError(
                f"{entry}: the folder has the splits {[p.split for p in found]!r}, needed one to "
                f"call {split!r}. Name a file, or leave the split out."
            )
        return [replace(p, split=split or p.split, root=path.absolute()) for p in found]
    if path.is_file():
        root = path.absolute().parent
        return [Location(_kind(path), split or _split_of(path) or "train", (path,), root=root)]
    hub = _HUB_ID.fullmatch(text)
    if hub and path.suffix.lower() not in KINDS and not path.parent.is_dir():
        return [Location("hub", split, hub_id=hub[1], hub_config=hub[2])]
    if looks_like_url(text):
        raise DataNotFoundError(
            f"{text}: data is read from files and folders of this machine and from the hub. Copy "
            "it here, or mount the place as a folder; the cache may be written to a URL."
        )
    raise _not_found(path)


def _locate_folder(folder: Path, reads: Sequence[Role]) -> list[Location]:
    if (folder / "dataset_dict.json").is_file():
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return [Location("arrow", normalise_split(name), (folder / name,)) for name in names]
    if (folder / "state.json").is_file():
        saved = json.loads((folder / "state.json").read_text(encoding="utf-8")).get("_split")
        return [Location("arrow", normalise_split(saved or "train"), (folder,))]
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in KINDS]
    by_split: dict[str, list[Path]] = {}
    for path in files:
        split = _split_of(path) or ("train" if len(files) == 1 else None)
        if split is not None:
            by_split.setdefault(split, []).append(path)
    if not by_split:
        return _locate_media(folder, reads)
    found = []
    for split, paths in by_split.items():
        kinds = {_kind(path) for path in paths}
        if len(kinds) > 1:
            raise DataError(
                f"{folder}: split {split!r} is there as {[p.name for p in paths]!r}, needed one "
                "kind of file. Name the file to use: train=PATH."
            )
        found.append(Location(kinds.pop(), split, tuple(paths)))
    return found


def _locate_media(folder: Path, reads: Sequence[Role]) -> list[Location]:
    """A folder of images or videos, if those are all that is read of a row."""
    role = reads[0] if len(reads) == 1 and reads[0] != "text" else None
    splits = None if role is None else split_folders(folder.absolute(), role, _split_of_folder)
    if splits is None:
        if role == "image" and split_folders(folder.absolute(), "video", _split_of_folder):
            raise DataError(
                f"{folder}: has videos and no images. Say how many frames of each to read: "
                "--frames N."
            )
        also = "" if role is None else f", {role}s, folders of them named after classes"
        raise DataError(
            f"{folder}: has {[p.name for p in folder.iterdir()][:10]!r}, needed files named after "
            f"splits (train.csv, test.csv){also} or an arrow folder. Name the files: train=PATH."
        )
    return [Location("media", split, (path,), media=role) for split, path in splits.items()]


def _split_of_folder(folder: Path) -> str | None:
    match = _SPLIT_FOLDER.fullmatch(folder.name)
    return normalise_split(match[1]) if match else None


def _split_of(path: Path) -> str | None:
    match = _SPLIT_IN_STEM.search(path.stem)
    return normalise_split(match[0]) if match else None


def _kind(path: Path) -> Kind:
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise DataError(
            f"{path}: files ending in {path.suffix!r} cannot be read, needed one of "
            f"{', '.join(KINDS)}. Convert the file, or rename it if it is one of these."
        )
    return kind


def _not_found(path: Path) -> DataNotFoundError:
    folder = path.parent
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    if close:
        return DataNotFoundError(f"{path}: no such file. Did you mean {folder / close[0]}?")
    where = folder.absolute()
    place = f"there is nothing like it in {where}" if names else f"{where} is empty or missing"
    return DataNotFoundError(f"{path}: no such file, {place}. Check the path.")


def _files(folder: Path) -> Sequence[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def hub_commit(hub_id: str) -> str | None:
    """The commit of a hub data set's main branch; None if the hub cannot tell now."""
    from huggingface_hub import dataset_info

    try:
        return dataset_info(hub_id, timeout=5).sha
    except Exception as error:
        # The client's HTTP library is another one in each of its major versions.
        if isinstance(error, OSError) or type(error).__module__.split(".")[0].startswith("http"):
            return None
        raise
