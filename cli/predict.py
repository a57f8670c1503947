"""`unipt predict`: labels and scores for new texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .console import Terminal
from .options import Device, Json, OnError, Quiet, RunOption, TextColumn, TextPairColumn
from .rows import row_writer
from .wording import table

SHOWN_CHARACTERS = 60


def predict(
    run: RunOption,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts to predict, instead of data.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="File, folder or hub data set to predict, row by row."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to: a .parquet, .csv or .jsonl file."),
    ] = None,
    text_column: TextColumn = None,
    text_pair_column: TextPairColumn = None,
    on_error: OnError = "fail",
    device: Device = "auto",
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Texts per forward pass.")
    ] = 32,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Label new texts with a trained run and its frozen backbone.

    The backbone must be the one that the run was trained with; it is checked.
    """
    if (data is None) == (not texts):
        raise typer.BadParameter("give texts or --data, one of them")
    if (data is None) != (out is None):
        raise typer.BadParameter("--data and --out go together")
    terminal = Terminal(quiet=quiet, as_json=as_json)
    import unipt

    if data is None or out is None:
        rows = unipt.load(run, device=device).predict(texts or [], batch_size=batch_size)
        terminal.result(shown(texts or [], rows), {"run": run, "predictions": rows})
        return
    num_rows = 0
    with row_writer(out) as write:
        for row in unipt.predict(
            run,
            data,
            text_column=text_column,
            text_pair_column=text_pair_column,
            on_error=on_error,
            device=device,
            batch_size=batch_size,
            progress=terminal,
        ):
            write(row)
            num_rows += 1
    facts = {"run": run, "data": data, "out": out, "num_rows": num_rows}
    terminal.result(f"{out}: {num_rows:,} rows", facts)


def shown(texts: list[str], rows: list[dict[str, Any]]) -> str:
    """A table of texts and what was predicted for them."""
    names = list(rows[0])
    lines = [
        [*(_cell(row[name]) for name in names), _short(t)]
        for t, row in zip(texts, rows, strict=True)
    ]
    return table([*names, "text"], lines)


def _cell(value: object) -> object:
    if isinstance(value, list):
        return ", ".join(str(_cell(item)) for item in value) or "-"
    return f"{value:.4f}" if isinstance(value, float) else value


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 3]}..."
