"""Flags that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

CacheArgument = Annotated[
    str, typer.Argument(metavar="CACHE", help="Folder or URL of a cache.", show_default=False)
]
RunOption = Annotated[
    Path,
    typer.Option("--run", metavar="FOLDER", help="Run folder, made by fit.", show_default=False),
]
TextColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column with the text; guessed where only one can be it."),
]
TextPairColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column with a second text, read as a pair."),
]
ImageColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column with images or their paths; guessed likewise."),
]
VideoColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column with paths of videos, or lists of frames."),
]
RegionsColumn = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column with .npz files of an image's regions."),
]
MediaRoot = Annotated[
    str | None,
    typer.Option(metavar="FOLDER", help="Folder of relative paths; that of the data file."),
]
OnError = Annotated[
    Literal["fail", "skip"],
    typer.Option(help="What an unusable row does: stop, or be left out."),
]
LocalCopy = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        envvar="UNIPT_LOCAL_COPY",
        help="Keeps what was read of a cache that is not on this disk: an object store, a file "
        "server.",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="auto: the fastest there is.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Any other setting, by its path; repeatable."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print errors only.")]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object on stdout, everything else on stderr."),
]
