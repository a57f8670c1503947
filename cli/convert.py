"""`unipt convert`: a released checkpoint as a folder that can be used as a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .console import Terminal
from .options import Json, Quiet


def convert(
    kind: Annotated[
        Literal["mdetr", "clip-vil"],
        typer.Argument(metavar="KIND", help="mdetr or clip-vil.", show_default=False),
    ],
    checkpoint: Annotated[
        Path,
        typer.Argument(metavar="CHECKPOINT", help="The authors' .pth file.", show_default=False),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A new folder.", show_default=False)
    ],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Its text encoder, if it is not the authors' RoBERTa or BERT."
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Convert a released checkpoint of MDETR or CLIP-ViL, once.

    No code from it is run.
    """
    from extractor import convert_checkpoint

    terminal = Terminal(quiet=quiet, as_json=as_json)
    done = convert_checkpoint(kind, checkpoint, folder, tokenizer=tokenizer)
    facts = {
        "folder": str(done.folder),
        "num_parameters": done.num_parameters,
        "heads": list(done.heads),
        "left_out": list(done.left_out),
    }
    terminal.result(
        f"{done.folder}: {done.num_parameters / 1e6:.1f} M parameters, {len(done.heads)} tensors "
        f"of heads, {len(done.left_out)} not needed",
        facts,
    )
    terminal.suggest("unipt", "extract", "--backbone", done.folder, "--data", "DATA")
