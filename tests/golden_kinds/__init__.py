"""How each kind of golden file is replayed: every module here names its kinds in `KINDS`."""

from __future__ import annotations

import importlib
import pkgutil

from .base import GoldenFile, Kind, Replay


def find_kinds() -> dict[str, Kind]:
    """Kind to the function that replays it, from all modules of this folder.

    Raises:
        ValueError: Two modules replay the same kind.
    """
    kinds: dict[str, Kind] = {}
    for module in pkgutil.iter_modules(__path__):
        found = getattr(importlib.import_module(f"{__name__}.{module.name}"), "KINDS", {})
        if taken := kinds.keys() & found.keys():
            raise ValueError(f"golden kinds {sorted(taken)} are replayed by two modules")
        kinds |= found
    return kinds


__all__ = ["GoldenFile", "Kind", "Replay", "find_kinds"]
