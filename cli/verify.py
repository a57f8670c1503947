"""`unipt verify`: every byte of a cache against what was written."""

from __future__ import annotations

from typing import Annotated

import typer

from .console import Terminal
from .options import CacheArgument, Json, Quiet
from .wording import table

FOUND_PROBLEMS = 1


def verify(
    cache: CacheArgument,
    quick: Annotated[
        bool, typer.Option("--quick", help="Receipts, counts and file sizes only.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Check every byte and count of a cache against what was written.

    The exit code is 1 if something is wrong.
    """
    from cache_schema import verify as find_problems

    terminal = Terminal(quiet=quiet, as_json=as_json)
    problems = find_problems(cache, quick=quick, progress=terminal)
    facts = {
        "cache": cache,
        "sound": not problems,
        "problems": [vars(problem) for problem in problems],
    }
    if not problems:
        depth = "receipts, counts and sizes are" if quick else "every byte is"
        terminal.result(f"{cache}: sound, {depth} as written", facts)
        return
    rows = [("-" if p.shard is None else p.shard, p.key, p.what) for p in problems]
    terminal.result(f"{table(('shard', 'file', 'problem'), rows)}", facts)
    terminal.say(f"{cache}: {len(problems)} problem{'s' if len(problems) > 1 else ''}")
    terminal.suggest("unipt", "repair", cache)
    raise typer.Exit(FOUND_PROBLEMS)
