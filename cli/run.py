"""`unipt run`: all stages of a pipeline, those left out that are done."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import completion
from .console import Terminal
from .options import Json, LocalCopy, Quiet, Settings
from .wording import table


def run(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A pipeline.", autocompletion=completion.pipelines),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="pipelines.yaml of this folder, or the one that came along."
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the pipelines and stop.")] = False,
    settings: Settings = None,
    extract_only: Annotated[
        bool, typer.Option("--extract-only", help="Stop when the caches are complete.")
    ] = False,
    local_copy: LocalCopy = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run all stages of a pipeline that are not done yet."""
    from .pipelines import load_pipeline, load_pipelines, pipelines_file
    from .stages import run_pipeline

    path = pipelines_file(file)
    terminal = Terminal(quiet=quiet, as_json=as_json)
    if list_:
        found = {name: pipeline.description for name, pipeline in load_pipelines(path).items()}
        shown = table(("pipeline", "description"), [*found.items()])
        terminal.result(f"{path}\n\n{shown}", {"file": path, "pipelines": found})
    elif name is None:
        raise typer.BadParameter("needed the NAME of a pipeline, or --list")
    else:
        pipeline = load_pipeline(path, name, settings or ())
        run_pipeline(pipeline, terminal, extract_only=extract_only, local_copy=local_copy)
