"""`unipt fit`: train a small network from a cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from . import completion
from .caches import open_caches
from .console import Terminal
from .options import Device, Json, LocalCopy, Quiet, Settings
from .wording import duration_text, number_text, table

if TYPE_CHECKING:
    from cache_schema import FeatureCache
    from trainer import FitReport


def fit(
    cache: Annotated[
        list[str],
        typer.Option(
            metavar="PATH",
            help="Cache to train from; for retrieval, that of images or videos, then of texts.",
        ),
    ],
    task: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"{', '.join(completion.TASKS)}; guessed from the target where it tells.",
            autocompletion=completion.tasks,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Target to learn (of retrieval, the key of both caches); guessed where there is "
            "only one.",
        ),
    ] = None,
    network: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"{', '.join(completion.NETWORKS)}.",
            autocompletion=completion.networks,
        ),
    ] = "unipt",
    epochs: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Passes over the training samples; 5 if not given."),
    ] = None,
    lr: Annotated[
        list[float] | None,
        typer.Option(
            metavar="RATE",
            help="Learning rate, 0.0005 if not given; of several at once the best is kept.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Samples per step; 64 if not given.")
    ] = None,
    reduction: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Backbone width / width of the side network; 2 if not given."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Of weights, order and dropout; 0 if not given."),
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of matrix products; weights are float32."),
    ] = "auto",
    run: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where to; a speaking name in runs/ if not given."),
    ] = None,
    settings: Settings = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run that lies there.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that lies there.")
    ] = False,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Train from a cache that is not finished.")
    ] = False,
    local_copy: LocalCopy = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train a small network from a cache, for many cheap epochs."""
    import unipt

    terminal = Terminal(quiet=quiet, as_json=as_json)
    given: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
    if lr:
        given["optimizer"] = {"learning_rates": lr}
    inside = [] if reduction is None else [f"network.reduction={reduction}"]
    opened = open_caches(cache, local_copy, terminal, allow_partial=allow_partial)
    try:
        report = unipt.fit(
            opened,
            target,
            task=task,
            network=network,
            run=run,
            overrides=[*inside, *(settings or [])],
            resume=resume,
            overwrite=overwrite,
            progress=terminal,
            device=device,
            precision=precision,
            **{name: value for name, value in given.items() if value is not None},
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("add --resume to the same command to go on") from None
    terminal.result(_page(report), report.model_dump(mode="json"))
    _suggest_next(terminal, report, opened, cache)


def _suggest_next(
    terminal: Terminal, report: FitReport, opened: list[FeatureCache], paths: list[str]
) -> None:
    """The commands that a user may want now."""
    from trainer import CacheExcerpt

    known = ("train", report.validation_name)
    caches = [part for path in paths for part in ("--cache", path)]
    unseen = [name for name in opened[-1].split_names if name not in known]
    for split in unseen[-1:]:
        terminal.suggest("unipt", "evaluate", "--run", report.run_dir, *caches, "--split", split)
    if len(opened) == 1:
        terminal.suggest_prediction(report.run_dir, CacheExcerpt.of(opened[0]).example)


def _page(report: FitReport) -> str:
    names = list(report.metrics)
    views = f" ({' and '.join(map(str, report.views))} views)" if max(report.views) > 1 else ""
    rows = [
        (
            f"{trial.learning_rate:g}",
            "-" if trial.best_epoch is None else trial.best_epoch,
            *(trial.metrics.get(name, float("nan")) for name in names),
            trial.stopped or ("kept" if trial.learning_rate == report.learning_rate else ""),
        )
        for trial in report.trials
    ]
    return (
        f"{table(('learning rate', 'best epoch', *names, ''), rows)}\n"
        f"{report.run_dir}: {report.num_parameters:,} trained parameters, "
        f"{report.primary} {report.metrics[report.primary]:.4f} on {report.validation_name}\n"
        f"{report.num_steps:,} steps over {report.num_train:,} samples{views} in "
        f"{duration_text(report.seconds)}, {number_text(round(report.samples_per_s))} samples/s"
    )
