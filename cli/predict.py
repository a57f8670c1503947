"""`unipt predict`: what a trained run says about new samples, or finds among cached ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .console import Terminal
from .options import (
    Device,
    ImageColumn,
    Json,
    MediaRoot,
    OnError,
    Quiet,
    RegionsColumn,
    RunOption,
    TextColumn,
    TextPairColumn,
    VideoColumn,
)
from .rows import row_writer
from .wording import table

if TYPE_CHECKING:
    from trainer import Match

SHOWN_CHARACTERS = 60


def predict(
    run: RunOption,
    samples: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SAMPLE",
            help="Texts, images or videos to predict, instead of data; with a cache: to find "
            "there.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="File, folder or hub data set to predict, row by row."),
    ] = None,
    cache: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Cache to predict or search in; of retrieval, images or videos, then texts.",
        ),
    ] = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="Split of the cache.")] = "test",
    top: Annotated[
        int, typer.Option(min=1, metavar="N", help="Matches of each query, best first.")
    ] = 10,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to: a .parquet, .csv or .jsonl file."),
    ] = None,
    draw: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to draw the boxes of grounding on the images."),
    ] = None,
    text_column: TextColumn = None,
    text_pair_column: TextPairColumn = None,
    image_column: ImageColumn = None,
    video_column: VideoColumn = None,
    regions_column: RegionsColumn = None,
    media_root: MediaRoot = None,
    on_error: OnError = "fail",
    device: Device = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Samples per forward pass.")
    ] = 32,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Label new samples with a trained run and its frozen backbone, or find them in a cache.

    The backbone, or the cache, must be the one that the run was trained with; it is checked.
    """
    if data is not None and (samples or cache):
        raise typer.BadParameter("--data stands alone, without SAMPLE and --cache")
    if data is None and not samples and not cache:
        raise typer.BadParameter("give SAMPLE, --data or --cache")
    if (out is None) != bool(samples):
        raise typer.BadParameter("--out goes with --data or --cache, and SAMPLE without")
    if draw is not None and data is None:
        raise typer.BadParameter("--draw goes with --data")
    terminal = Terminal(quiet=quiet, as_json=as_json)
    import unipt

    if samples and cache:
        if len(cache) > 1:
            raise typer.BadParameter("SAMPLE is searched for in one --cache")
        model, opened = unipt.load(run, device=device), unipt.open_cache(cache[0])
        among = {model.side_of(opened): opened}
        found = {query: model.search(query, split=split, top=top, **among) for query in samples}
        terminal.result(shown_matches(found), {"run": run, "found": _plain(found)})
    elif samples:
        rows = unipt.load(run, device=device).predict(samples, batch_size=batch_size)
        terminal.result(shown(samples, rows), {"run": run, "predictions": rows})
    elif cache and out:
        predicted = unipt.predict_cached(
            run, cache, split, top=top, device=device, progress=terminal
        )
        facts = {"run": run, "cache": cache, "out": out}
        _write(predicted, out, facts, terminal)
    elif data and out:
        columns = {
            "image_column": image_column,
            "video_column": video_column,
            "regions_column": regions_column,
            "media_root": media_root,
        }
        predicted = unipt.predict(
            run,
            data,
            text_column=text_column,
            text_pair_column=text_pair_column,
            on_error=on_error,
            device=device,
            batch_size=batch_size,
            draw=draw,
            progress=terminal,
            **{name: value for name, value in columns.items() if value is not None},
        )
        _write(predicted, out, {"run": run, "data": data, "out": out}, terminal)


def _write(
    rows: Iterable[dict[str, Any]], out: Path, facts: dict[str, Any], terminal: Terminal
) -> None:
    """All rows into the file, and what could not be read counted."""
    num_rows = num_unreadable = 0
    with row_writer(out) as write:
        for row in rows:
            write(row)
            num_rows += 1
            if row.get("error") is not None:
                num_unreadable += 1
                terminal.say(f"{row['split']} row {row['row']}: no prediction: {row['error']}")
    lost = f", {num_unreadable:,} of them without a prediction" if num_unreadable else ""
    facts |= {"num_rows": num_rows, "num_unreadable": num_unreadable}
    terminal.result(f"{out}: {num_rows:,} rows{lost}", facts)


def shown(samples: list[str], rows: list[dict[str, Any]]) -> str:
    """A table of samples and what was predicted for them."""
    names = [name for name in rows[0] if name != "error" or any(row["error"] for row in rows)]
    lines = [
        [*(_cell(row.get(name)) for name in names), _short(sample)]
        for sample, row in zip(samples, rows, strict=True)
    ]
    return table([*names, "sample" if "error" in rows[0] else "text"], lines)


def shown_matches(found: dict[str, list[Match]]) -> str:
    """A table of queries and what they found."""
    lines = [
        (_short(query), match.name, f"{match.score:.4f}")
        for query, matches in found.items()
        for match in matches
    ]
    return table(("query", "found", "score"), lines)


def _plain(found: dict[str, list[Match]]) -> dict[str, list[dict[str, Any]]]:
    return {query: [vars(match) for match in matches] for query, matches in found.items()}


def _cell(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(str(_cell(item)) for item in value) or "-"
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else value


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 3]}..."
