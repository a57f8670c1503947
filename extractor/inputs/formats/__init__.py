"""Data sets of the paper, read from the files that their makers publish: `FORMAT:ROOT`.

source = open_format("karpathy", Path("flickr30k"))      finds the files, reads no row
source.read(frozenset({"test"}))                         {"test": Table}

`docs/data.md` shows each folder. Nothing here imports pandas or datasets.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ..errors import DataError, DataNotFoundError
from .gqa import open_gqa
from .karpathy import open_karpathy
from .msrvtt import open_msrvtt
from .msvd import open_msvd
from .refexp import open_refexp
from .table import FormatSource, Table
from .vqa2 import open_vqa2

__all__ = ["FORMATS", "FormatSource", "Table", "open_format", "parse_format"]

FORMATS: dict[str, Callable[[Path], FormatSource]] = {
    "karpathy": open_karpathy,
    "msrvtt": open_msrvtt,
    "msvd": open_msvd,
    "vqa2": open_vqa2,
    "gqa": open_gqa,
    "refcoco": partial(open_refexp, dataset="refcoco"),
    "refcoco+": partial(open_refexp, dataset="refcoco+"),
    "refcocog": partial(open_refexp, dataset="refcocog"),
}
"""Name to the function that finds its files below a folder."""


def parse_format(entry: str) -> tuple[str, Path] | None:
    """Format and folder of `FORMAT:ROOT`; None for an entry that is no such thing.

    Raises:
        DataError: It looks like one, but the format is not known.
    """
    name, colon, root = entry.partition(":")
    if not colon or not root or Path(entry).exists():
        return None
    if name in FORMATS:
        return name, Path(root).expanduser()
    # A hub data set has a slash before its colon, and no folder after it.
    if "/" not in name and Path(root).expanduser().exists():
        near = difflib.get_close_matches(name, FORMATS, n=1)
        hint = f"Did you mean {near[0]}:{root}?" if near else "docs/data.md describes them."
        raise DataError(f"{entry}: {name!r} is no data format, there are {[*FORMATS]!r}. {hint}")
    return None


def open_format(name: str, root: Path) -> FormatSource:
    """Find the files of a data set.

    Args:
        name: A key of `FORMATS`.
        root: Its folder; for `karpathy` also the json file itself.

    Raises:
        DataNotFoundError: The folder or a file in it is missing; names what the folder has.
    """
    if not root.exists():
        raise DataNotFoundError(
            f"{name}:{root}: there is no such folder, needed the one with the data set's files. "
            "docs/data.md says where to get them."
        )
    return FORMATS[name](root)
