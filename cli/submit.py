"""`unipt submit`: run a command as batch jobs of Slurm."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from .batch_script import NOTICE_S, Resources, batch_script, seconds
from .console import Terminal
from .options import Json

_FOLDER = Path("jobs")
_SHORTEST_S = 300  # to start, to get somewhere, and to stop
_SHARED = ("extract", "run")  # commands of which several jobs fill the same caches


def submit(
    command: Annotated[
        list[str],
        typer.Argument(metavar="COMMAND...", help="A unipt command with its flags."),
    ],
    jobs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Jobs that fill the same cache together.")
    ] = 1,
    gpus: Annotated[int, typer.Option(metavar="N", min=0, help="Of each job.")] = 0,
    cpus: Annotated[int, typer.Option(metavar="N", min=1, help="Cores of each job.")] = 1,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Of each job, as Slurm reads it: 32G.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            metavar="LIMIT", help="Of each turn: 4:00:00. A job goes on in a new turn after it."
        ),
    ] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPTION=VALUE", help="Any other option of sbatch: partition=gpu; repeatable."
        ),
    ] = None,
    after: Annotated[
        list[str] | None,
        typer.Option(metavar="JOB", help="Begin once this job has succeeded; repeatable."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the job; that of the command.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the script, submit nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a command as batch jobs of Slurm.

    They are started again where they stopped until it is done. Prints the number of the job, for
    --after of the next one.
    """
    _refuse_what_fails_later(command, jobs, gpus)
    _refuse_what_slurm_misreads(name, time)
    one = Resources(1, gpus, cpus, memory, time, tuple(sbatch or ()))
    many = replace(one, jobs=jobs)
    terminal = Terminal(as_json=as_json)
    title = name or command[0]
    if command[0] == "run" and jobs > 1:  # many fill the caches, one trains
        first = f"{title}-extract"
        scripts = {
            first: batch_script(first, _FOLDER, [*command, "--extract-only"], many),
            title: batch_script(title, _FOLDER, command, one),
        }
    else:
        scripts = {title: batch_script(title, _FOLDER, command, many)}
    if dry_run:
        terminal.result("\n".join(scripts.values()), {"scripts": scripts})
        return
    before = list(after or ())
    for part, script in scripts.items():
        before = [_sbatch(part, script, before, terminal)]
    terminal.result(before[0], {"job": before[0]})


def _refuse_what_fails_later(command: list[str], jobs: int, gpus: int) -> None:
    """Read the command as `unipt` will: a wrong flag must not wait in a queue to be found."""
    from .app import app

    group = typer.main.get_command(app)
    found = group.commands.get(command[0])  # type: ignore[attr-defined]
    if found is None or command[0] == "submit":
        known = ", ".join(name for name in group.commands if name != "submit")  # type: ignore[attr-defined]
        raise typer.BadParameter(f"found {command[0]!r}, needed one of {known}")
    words = found.make_context(f"unipt {command[0]}", command[1:]).params
    if command[0] == "run" and words["name"] is not None:
        from .pipelines import load_pipeline, pipelines_file

        load_pipeline(pipelines_file(words["file"]), words["name"], words["settings"] or ())
    if jobs > 1 and command[0] not in _SHARED:
        raise typer.BadParameter(
            f"--jobs is {jobs}, but {command[0]!r} is done by one job; several share "
            f"{' and '.join(_SHARED)}"
        )
    if gpus > 1 and command[0] != "run" and words.get("workers", 1) != gpus:
        more = f", or --workers {gpus} after extract" if command[0] == "extract" else ""
        raise typer.BadParameter(
            f"--gpus is {gpus}, but {command[0]!r} uses {words.get('workers', 1)} of them; needed "
            f"--gpus {words.get('workers', 1)}{more}"
        )


def _refuse_what_slurm_misreads(name: str | None, time: str | None) -> None:
    if name is not None and not re.fullmatch(r"[\w.-]+", name):
        raise typer.BadParameter(
            f"--name is {name!r}, needed letters, digits, '.', '_' and '-': it names files"
        )
    limit = None if time is None else seconds(time)
    if limit is not None and limit < _SHORTEST_S:
        raise typer.BadParameter(
            f"--time is {time!r}, for Slurm {limit} s; needed {_SHORTEST_S} s at least, as a job "
            f"is told to stop {NOTICE_S} s before its end. Hours are written 4:00:00"
        )


def _sbatch(name: str, script: str, after: list[str], terminal: Terminal) -> str:
    """Submit a script; the number of its job."""
    from cache_schema import UserError

    if shutil.which("sbatch") is None:
        raise UserError(
            "submit: there is no sbatch here. Run it where Slurm's commands are, or take the "
            "script that --dry-run shows to another scheduler."
        )
    path = _FOLDER / f"{name}.sh"
    try:
        _FOLDER.mkdir(exist_ok=True)
        path.write_text(script)
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror}). Submit from a folder where it can."
        ) from error
    wait = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
    done = subprocess.run(
        ["sbatch", "--parsable", *wait, str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise UserError(f"{path}: sbatch refused it: {' '.join(done.stderr.split())}")
    job = done.stdout.strip().partition(";")[0]
    terminal.say(f"{path}: job {job}, log {_FOLDER}/{name}-{job}*.log")
    return job
