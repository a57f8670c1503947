"""Opening the caches of a command, and saying how far away they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .console import Terminal
from .wording import bytes_text

if TYPE_CHECKING:
    from cache_schema import FeatureCache


def open_caches(
    paths: Sequence[str],
    local_copy: Path | None,
    terminal: Terminal,
    *,
    allow_partial: bool = False,
) -> list[FeatureCache]:
    """Open caches, and say what is read over a network.

    Args:
        paths: Where they are.
        local_copy: Folder that keeps what was read of them; None for nowhere.
        terminal: Where to print.
        allow_partial: Open also what is not finished.

    Raises:
        UserError: A cache cannot be opened, or the folder not be written.
    """
    import unipt

    opened = [
        unipt.open_cache(path, allow_partial=allow_partial, local_copy=local_copy) for path in paths
    ]
    for cache in opened:
        note = _note(cache)
        if note is not None:
            terminal.say(f"{cache.path}: {note}")
    return opened


def _note(cache: FeatureCache) -> str | None:
    size = sum(receipt.num_bytes for receipt in cache.receipts.values())
    copy = cache.local_copy
    if copy is not None:
        present = copy.num_bytes
        note = f"{bytes_text(min(present, size))} of {bytes_text(size)} are in {copy.folder}"
        if present >= size:
            return f"all {bytes_text(size)} are in {copy.folder}"
        if size - present > copy.free_bytes:
            return (
                f"{note}, where {bytes_text(copy.free_bytes)} are free: what does not fit is read "
                "from afar every time"
            )
        return f"{note}, the rest is kept there once it is read"
    if not cache.storage.is_local:
        return (
            f"its {bytes_text(size)} are read over the network in every epoch and every run; "
            "--local-copy FOLDER keeps what was read once"
        )
    return None
