"""Rows of the same image or video as one sample, where that loses nothing but words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .media import MediaIndex
from .rows import Rows
from .targets import TargetData


@dataclass(frozen=True, eq=False)
class Merged:
    """Samples after merging, and what was decided in words."""

    splits: dict[str, Rows]
    targets: tuple[TargetData, ...]
    notes: list[str]


def merge_repeated(
    role: str, media: MediaIndex, splits: Mapping[str, Rows], targets: Sequence[TargetData]
) -> Merged:
    """Keep the first of all samples of a split that have the same source.

    Where a target differs among them every row stays, since each then has an answer of its own;
    a key may differ, and the first row's stays.

    Args:
        role: `image` or `video`.
        media: The source of each sample.
        splits: The samples.
        targets: Their targets, keys included.
    """
    kept, first, num_rows = {}, {}, 0
    for split in splits:
        _, at, inverse = np.unique(media.codes(split), return_index=True, return_inverse=True)
        kept[split], first[split] = np.sort(at), at[inverse]
        num_rows += len(inverse)
    num_sources = sum(len(positions) for positions in kept.values())
    if num_sources == num_rows:
        return Merged(dict(splits), tuple(targets), [])
    differing = [t for t in targets if any(t.differs(s, first[s]) for s in splits)]
    answers = [t.spec.name for t in differing if t.spec.kind != "string"]
    names = [t.spec.name for t in differing if t.spec.kind == "string"]
    if answers:
        note = (
            f"{num_rows:,} rows share {num_sources:,} {role}s, but {answers!r} differs among rows "
            f"of the same {role}: each row is a sample, and its {role} is extracted with it"
        )
        return Merged(dict(splits), tuple(targets), [note])
    per_source = num_rows / num_sources
    count = f"{per_source:.0f}" if per_source.is_integer() else f"{per_source:.1f}"
    notes = [f"{count} rows per {role}, each {role} once: {num_sources:,} of {num_rows:,} rows"]
    if names:
        notes.append(f"key {names!r}: differs among rows of the same {role}, the first one's stays")
    merged = {split: rows.merge(kept[split]) for split, rows in splits.items()}
    return Merged(merged, tuple(target.take(kept) for target in targets), notes)
