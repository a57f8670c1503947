"""`unipt repair`: extract again what is damaged or missing, and only that."""

from __future__ import annotations

from .console import Terminal
from .extract import summary
from .options import CacheArgument, Json, Quiet


def repair(cache: CacheArgument, quiet: Quiet = False, as_json: Json = False) -> None:
    """Find damaged shards, drop them, and extract only those again.

    The backbone and the data must be where they were.
    """
    import extractor

    terminal = Terminal(quiet=quiet, as_json=as_json)
    report = extractor.repair(cache, terminal)
    if report is None:
        terminal.result(
            f"{cache}: sound and complete, nothing to do", {"cache": cache, "num_written": 0}
        )
        return
    terminal.result(summary(report), report.as_dict())
    terminal.suggest("unipt", "verify", cache)
