"""Open the rows of every split through Hugging Face datasets, on disk and memory-mapped."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants as hub
from datasets.exceptions import DatasetGenerationError
from datasets.utils.logging import get_verbosity, set_verbosity

from .config import DataConfig
from .delimited import check_delimited
from .docstrings import build_docstrings
from .errors import DataError, DataNotFoundError
from .folders import list_media
from .formats import open_format
from .formats.as_dataset import as_dataset
from .locate import Location, hub_commit, locate, normalise_split, ordered_splits


def load_splits(config: DataConfig) -> dict[str, datasets.Dataset]:
    """Every split asked for, train, validation and test first.

    Raises:
        DataError: A source cannot be read, is empty, or a split asked for is not there.
    """
    locations = locate(config)
    wanted = {normalise_split(name) for name in config.splits}
    loaded: dict[str, datasets.Dataset] = {}
    unread = set()
    with _quiet():
        for place in locations:
            # Where the split is known beforehand, one that is not asked for is not read.
            if wanted and place.split is not None and place.split not in wanted:
                unread.add(place.split)
                continue
            if place.format is not None:
                unread.update(open_format(*place.format).files)
            for split, rows in _load(place, frozenset(wanted)).items():
                if split in loaded:
                    raise DataError(f"--data: split {split!r} is there twice. Name it: NAME=PATH.")
                loaded[split] = rows
    missing = sorted(wanted - set(loaded))
    if missing:
        there = ordered_splits([*loaded, *unread])
        raise DataError(
            f"--split: {missing!r} is not in the data, which has {there!r}. "
            "Choose among those, or leave --split out."
        )
    chosen = [split for split in ordered_splits(loaded) if not wanted or split in wanted]
    for split in chosen:
        if len(loaded[split]) == 0:
            raise DataError(f"--data: split {split!r} has no rows, needed at least one.")
    return {split: loaded[split] for split in chosen}


def _load(place: Location, wanted: frozenset[str]) -> dict[str, datasets.Dataset]:
    if place.format is not None:
        read = open_format(*place.format).read(wanted)
        return {split: as_dataset(table) for split, table in read.items()}
    if place.kind == "hub":
        return _load_hub(place)
    if place.kind == "builtin":
        tables = build_docstrings()
        return {split: datasets.Dataset.from_dict(table) for split, table in tables.items()}
    split = place.split or "train"
    try:
        if place.media is not None:
            return {split: datasets.Dataset.from_dict(list_media(place.paths[0], place.media))}
        if place.kind == "arrow":
            return {split: datasets.load_from_disk(str(place.paths[0]))}
        if place.kind in ("csv", "tsv"):
            return {split: _load_delimited(place.paths, "\t" if place.kind == "tsv" else ",")}
        for path in place.paths:
            if path.stat().st_size == 0:
                raise DataError(f"{path}: is empty, needed at least one row.")
        files = [str(path) for path in place.paths]
        return {split: datasets.load_dataset(place.kind, data_files=files, split="train")}
    except DatasetGenerationError as error:
        raise _unreadable(place, error.__cause__ or error) from error
    except (ValueError, OSError) as error:
        if isinstance(error, DataError):
            raise
        raise _unreadable(place, error) from error


def _load_delimited(paths: Sequence[Path], delimiter: str) -> datasets.Dataset:
    """All cells as strings: types are decided over the whole column, later."""
    parts: list[datasets.Dataset] = []
    for path in paths:
        checked = check_delimited(path, delimiter)
        part = datasets.load_dataset(
            "csv",
            data_files=[str(path)],
            split="train",
            features=datasets.Features({c: datasets.Value("string") for c in checked.columns}),
            sep=delimiter,
            quoting=csv.QUOTE_MINIMAL if checked.quoted else csv.QUOTE_NONE,
            keep_default_na=False,
            na_filter=False,
            skip_blank_lines=len(checked.columns) > 1,
            encoding="utf-8-sig",
        )
        if len(part) != checked.num_rows:
            raise DataError(
                f"{path}: {checked.num_rows} rows were counted and {len(part)} read. Look for "
                "unusual line ends or null bytes in the file."
            )
        if parts and part.column_names != parts[0].column_names:
            raise DataError(
                f"{path}: has the columns {part.column_names!r}, {paths[0]} has "
                f"{parts[0].column_names!r}. Files of one split need the same columns."
            )
        parts.append(part)
    return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)


def _load_hub(place: Location) -> dict[str, datasets.Dataset]:
    try:
        with nullcontext() if hub_commit(str(place.hub_id)) else _offline():
            loaded: Any = datasets.load_dataset(place.hub_id, place.hub_config)
    except (ConnectionError, datasets.exceptions.DatasetNotFoundError) as error:
        raise DataNotFoundError(
            f"{place.hub_id}: no such file or folder here, and as a hub data set it cannot be "
            "reached or found. Check the name, or connect once so that it is in the local cache."
        ) from error
    except (ValueError, OSError, RuntimeError) as error:
        raise _unreadable(place, error) from error
    if place.split is not None:
        if len(loaded) > 1:
            raise DataError(
                f"{place.hub_id}: has the splits {list(loaded)!r}, needed one to call "
                f"{place.split!r}. Leave the split out, and choose with --split."
            )
        return {place.split: next(iter(loaded.values()))}
    return {normalise_split(split): rows for split, rows in loaded.items()}


def _unreadable(place: Location, error: BaseException) -> DataError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    return DataError(f"{place}: cannot be read as {place.kind}: {first}. Correct or convert it.")


@contextmanager
def _offline() -> Iterator[None]:
    """Read the local hub cache at once: the library would first try the network for half a minute.

    The library takes this setting from the environment when it is imported, and nowhere else.
    """
    before = hub.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = before


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's bars and its log of an error that is raised anyway off the screen."""
    bars, verbosity = datasets.is_progress_bar_enabled(), get_verbosity()
    datasets.disable_progress_bars()
    set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
