"""`unipt evaluate`: metrics of a run on a split of a cache."""

from __future__ import annotations

from typing import Annotated

import typer

from .caches import open_caches
from .console import Terminal
from .options import Device, Json, LocalCopy, Quiet, RunOption
from .wording import table


def evaluate(
    run: RunOption,
    cache: Annotated[
        list[str],
        typer.Option(
            metavar="PATH",
            help="Cache with the split; of retrieval, that of images or videos, then of texts.",
        ),
    ],
    split: Annotated[str, typer.Option(metavar="NAME", help="Split to evaluate on.")] = "test",
    device: Device = "auto",
    local_copy: LocalCopy = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Print and write the metrics of a run on one split of a cache."""
    import unipt
    from trainer import CacheExcerpt

    terminal = Terminal(quiet=quiet, as_json=as_json)
    opened = open_caches(cache, local_copy, terminal)
    metrics = unipt.evaluate(run, opened, split, device=device, progress=terminal)
    facts = {"run": run, "cache": cache, "split": split, "metrics": metrics}
    shown = table((split, ""), [(name, f"{value:.4f}") for name, value in metrics.items()])
    terminal.result(shown, facts)
    terminal.say(f"written to {run / f'metrics-{split}.json'}")
    if len(cache) == 1:
        terminal.suggest_prediction(run, CacheExcerpt.of(opened[0]).example)
        return
    caches = [part for path in cache for part in ("--cache", path)]
    there = ("--split", split, "--out", "ranked.parquet")
    terminal.suggest("unipt", "predict", "--run", run, *caches, *there)
