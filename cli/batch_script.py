"""A batch script for Slurm around one `unipt` command."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

NOTICE_S = 120  # before the time limit: enough to write three shards, or a checkpoint
_MAX_TURNS = 50  # a job that never gets anywhere must not be queued for ever


@dataclass(frozen=True)
class Resources:
    """What each job asks for.

    Attributes:
        jobs: How many work on the same cache.
        gpus: Of each.
        cpus: Cores of each.
        memory: Of each, as Slurm reads it (32G).
        time: Limit, as Slurm reads it (4:00:00); started again where it left off after that.
        others: Any other options of sbatch, without the dashes (partition=gpu).
    """

    jobs: int = 1
    gpus: int = 0
    cpus: int = 1
    memory: str | None = None
    time: str | None = None
    others: tuple[str, ...] = ()

    def options(self) -> list[str]:
        """As sbatch takes them."""
        found = [f"cpus-per-task={self.cpus}"]
        if self.jobs > 1:
            found.append(f"array=1-{self.jobs}")
        if self.gpus:
            found.append(f"gres=gpu:{self.gpus}")
        if self.memory is not None:
            found.append(f"mem={self.memory}")
        if self.time is not None:
            found.append(f"time={self.time}")
        return [*found, *map(_quoted, self.others)]


def batch_script(name: str, folder: Path, command: Sequence[str], resources: Resources) -> str:
    """The text of a script that runs `command` and goes on after time limits and preemption.

    Args:
        name: Of the job.
        folder: Where its logs go.
        command: Words after `unipt`.
        resources: What it asks for.
    """
    log = f"{folder}/{name}-{'%A_%a' if resources.jobs > 1 else '%j'}.log"
    options = [
        f"job-name={name}",
        f"output={log}",
        "open-mode=append",
        "ntasks=1",
        "requeue",
        f"signal=TERM@{NOTICE_S}",
        *resources.options(),
    ]
    lines = "\n".join(f"#SBATCH --{option}" for option in options)
    # -P: no folder of the user's that is called like one of ours comes first.
    python = shlex.join([sys.executable, "-P", "-m", "cli"])
    return f"""#!/bin/bash
{lines}
# Written by `unipt submit`. Every part of it may be changed; `sbatch` it again then.
set -u
export OMP_NUM_THREADS={resources.cpus} SRUN_CPUS_PER_TASK={resources.cpus}
command=({shlex.join(command)})
{_RESUME if command[0] == "fit" else ""}srun {python} "${{command[@]}}"
status=$?
# 143: told to stop, as the time limit is near; what was done is kept. Not so if it was cancelled.
state=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)
turn=$(( ${{SLURM_RESTART_COUNT:-0}} + 1 ))
if [ $status = 143 ] && [ "$state" = RUNNING ] && [ $turn -le {_MAX_TURNS} ]; then
  echo "unipt: turn $turn ends, the job goes on in the next one"
  scontrol requeue "$SLURM_JOB_ID"
  sleep 60  # until Slurm ends this turn
fi
exit $status
"""


def seconds(limit: str) -> int | None:
    """What a time limit is for Slurm; None if it is none.

    M, M:S, H:M:S, D-H, D-H:M and D-H:M:S are known.
    """
    days, dash, clock = limit.rpartition("-")
    numbers = clock.split(":")
    if not all(number.isdecimal() for number in (*numbers, days or "0")) or len(numbers) > 3:
        return None
    # After days the first number is hours; without, a lone one or the first of two is minutes.
    first = 3600 if dash or len(numbers) == 3 else 60
    units = (first, first // 60, max(1, first // 3600))
    total = sum(int(n) * unit for n, unit in zip(numbers, units, strict=False))
    return 86_400 * int(days or 0) + total


def _quoted(option: str) -> str:
    name, equals, value = option.removeprefix("--").partition("=")
    return f"{name}{equals}{shlex.quote(value)}" if equals else name


_RESUME = """if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
  command=("${command[@]/#--overwrite/--resume}")
  [[ " ${command[*]} " = *" --resume "* ]] || command+=(--resume)
fi
"""
