"""`unipt gc`: remove what crashes left in a cache."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import Terminal
from .options import CacheArgument, Json
from .wording import table


def gc(
    cache: CacheArgument,
    include_recent: Annotated[
        bool,
        typer.Option(
            "--include-recent",
            help="Also what changed within the last hour. Only while nothing writes the cache.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show it, remove nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what crashes left in a cache.

    Only what no receipt names and nobody is writing.
    """
    from cache_schema import find_garbage, remove_garbage

    terminal = Terminal(as_json=as_json)
    garbage = find_garbage(cache, include_recent=include_recent)
    if not dry_run:
        remove_garbage(cache, garbage)
    facts = {"cache": cache, "removed": not dry_run, "garbage": [vars(entry) for entry in garbage]}
    if not garbage:
        terminal.result(f"{cache}: nothing to remove", facts)
        return
    listed = table(("path", "why"), [(entry.key, entry.why) for entry in garbage])
    done = "would be removed" if dry_run else "removed"
    terminal.result(f"{listed}\n{cache}: {len(garbage)} {done}", facts)
