"""The typer app behind `unipt`: one command per file, heavy imports only inside commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from .convert import convert
from .errors import shown_as_one_line
from .evaluate import evaluate
from .examples import epilog
from .extract import extract
from .fit import fit
from .gc import gc
from .inspect import inspect
from .predict import predict
from .repair import repair
from .run import run
from .submit import submit
from .verify import verify

COMMANDS: tuple[Callable[..., None], ...] = (
    run,
    extract,
    fit,
    evaluate,
    predict,
    inspect,
    verify,
    repair,
    gc,
    convert,
    submit,
)


class Commands(TyperGroup):
    """All commands, with the one place where exceptions become exit codes."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        with shown_as_one_line():
            return super().invoke(ctx)


app = typer.Typer(
    name="unipt",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a bug shows Python's own traceback
    rich_markup_mode=None,  # plain help: half the time, and it reads well in a pipe
)


def _version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        print(f"unipt {version('unipt')}")
        raise typer.Exit


@app.callback(epilog=epilog("unipt"))
def unipt(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Run a frozen backbone once, then train small networks from its layers many times."""


for command in COMMANDS:
    # What follows the first word of a submitted command belongs to that command.
    settings = {"allow_interspersed_args": command is not submit}
    app.command(command.__name__, epilog=epilog(command.__name__), context_settings=settings)(
        command
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command line, `sys.argv` by default, and leave with its exit code."""
    app(args=arguments, prog_name="unipt")
