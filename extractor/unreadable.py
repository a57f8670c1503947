"""Samples that cannot be read: refuse them, or name those left without hidden states."""

from __future__ import annotations

from collections.abc import Sequence

from cache_schema import Manifest, Progress, Receipt, UnreadableSample

from .inputs import BadRowError, OnError

_NAMED = 20  # enough to see what they have in common


def refuse_unreadable(
    on_error: OnError, manifest: Manifest, found: Sequence[UnreadableSample]
) -> None:
    """Stop at the first of these samples, unless they are to be left without hidden states.

    Raises:
        BadRowError: Names its file and row, and how many more there are.
    """
    if not found or on_error == "skip":
        return
    rows = _by_row(manifest, found)
    (split, row), reason = next(iter(rows.items()))
    more = f" ({len(rows) - 1:,} more rows are like it)" if len(rows) > 1 else ""
    raise BadRowError(
        f"--data: row {row} of split {split!r} (the first row is 0): {reason}{more}. "
        "Correct it, or leave such rows without hidden states with --on-error skip."
    )


def name_unreadable(
    path: str, manifest: Manifest, receipts: Sequence[Receipt | None], reports: Progress
) -> int:
    """How many samples of a cache have no hidden states; the first rows of them are named."""
    found = [sample for receipt in receipts if receipt for sample in receipt.unreadable]
    rows = _by_row(manifest, found)
    for (split, row), reason in list(rows.items())[:_NAMED]:
        reports.say(f"row {row} of split {split!r} has no hidden states: {reason}")
    if len(rows) > _NAMED:
        reports.say(f"and {len(rows) - _NAMED:,} more rows: `unipt inspect {path} --json`")
    return len(found)


def _by_row(manifest: Manifest, found: Sequence[UnreadableSample]) -> dict[tuple[str, int], str]:
    """Split and row to the reason: all views of a row fail together."""
    rows: dict[tuple[str, int], str] = {}
    for one in found:
        split = next(s.name for s in manifest.splits if s.start <= one.sample < s.stop)
        rows.setdefault((split, one.row), one.reason)
    return rows
