"""Files that several samples are about: which they are, each once."""

from __future__ import annotations

from collections.abc import Hashable, Iterable


def first_of_each(keys: Iterable[Hashable]) -> tuple[list[int], list[int]]:
    """The first position of every different key, and for each key its place among those."""
    place_of: dict[Hashable, int] = {}
    firsts: list[int] = []
    places = []
    for at, key in enumerate(keys):
        if key not in place_of:
            place_of[key] = len(firsts)
            firsts.append(at)
        places.append(place_of[key])
    return firsts, places
