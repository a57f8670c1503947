"""The one place for output: bars in a terminal, plain lines in a log, JSON for a program.

Progress and remarks go to stderr, results to stdout, so that `unipt inspect CACHE > file` keeps
the result only. With `--json` stdout holds exactly one JSON object.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from .wording import bytes_text, duration_text, fact_text, number_text

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

# A log of a day-long run stays readable: lines come ever less often, one a minute at least.
FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
_SHORTEST_S = 0.01  # in less time a rate says nothing


class Terminal:
    """Tells a person, a log or a program how a stage goes (a `cache_schema.Progress`)."""

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        # Of the processes that `torchrun` starts only the first one speaks.
        self._is_silent = os.environ.get("RANK", "0") != "0"
        self._quiet = quiet or self._is_silent
        self._as_json = as_json
        self._is_tty = sys.stderr.isatty()
        self._bars: Bars | None = None

    def say(self, text: str) -> None:
        """Show one line, above the bars if there are any."""
        if self._quiet:
            return
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
            return
        stamp = "" if self._is_tty else time.strftime("%Y-%m-%d %H:%M:%S  ")
        print(f"{stamp}{text}", file=sys.stderr, flush=True)

    def suggest(self, *words: object) -> None:
        """Name the command that comes next, ready to be copied."""
        self.say(f"next: {shlex.join(str(word) for word in words)}")

    def suggest_prediction(self, run: object, example: Sequence[str]) -> None:
        """Name the command that predicts with a run.

        Args:
            run: Its folder.
            example: The parts of a sample, of which only a lone one fits into a command.
        """
        new = example if len(example) == 1 else ("--data", "new.csv", "--out", "predictions.csv")
        self.suggest("unipt", "predict", "--run", run, *new)

    def result(self, text: str, facts: Mapping[str, Any]) -> None:
        """Print what was found: `text` for a person, or `facts` for a program."""
        if self._is_silent:
            return
        if self._as_json:
            print(json.dumps(_plain(facts), allow_nan=False), flush=True)
        elif text and not self._quiet:
            print(text, flush=True)

    @contextmanager
    def meter(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Count]:
        """Show a running count of `total` units, `done` of which are done already."""
        count = Count(total, unit, done)
        if self._quiet:
            yield count
        elif self._is_tty:
            yield from self._bar(label, count)
        else:
            yield from self._lines(label, count)

    def _bar(self, label: str, count: Count) -> Iterator[Count]:
        outer = self._bars
        bars = self._bars = outer or _new_bars()
        bars.start()
        task = bars.add_task(label, total=count.total, completed=count.done, line="")
        count.show = lambda: bars.update(task, completed=count.done, line=count.line())
        try:
            yield count
        finally:
            count.show()
            if outer is None:
                self._bars = None
                bars.stop()
            else:
                # Finished inner bars would pile up under the outer one.
                bars.remove_task(task)

    def _lines(self, label: str, count: Count) -> Iterator[Count]:
        pause_s = FIRST_PAUSE_S
        shown_at = time.monotonic()

        def show() -> None:
            nonlocal pause_s, shown_at
            # The last state is shown below, once.
            if time.monotonic() - shown_at >= pause_s and count.done != count.total:
                self.say(f"{label}: {count.share()}  {count.line()}")
                shown_at = time.monotonic()
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

        count.show = show
        try:
            yield count
        finally:
            self.say(f"{label}: {count.share()}  {count.line()}")


class Count:
    """A running count and its rate (a `cache_schema.Meter`).

    Attributes:
        total: Units in all, 0 where unknown.
        done: Units so far.
        show: Called after each change.
    """

    def __init__(self, total: int, unit: str, done: int) -> None:
        self.total = total
        self.done = done
        self.show: Callable[[], None] = lambda: None
        self._unit = unit
        self._before = done
        self._started_at = time.monotonic()
        self._bytes = 0
        self._facts: dict[str, str | float | int] = {}

    def advance(self, amount: int, **facts: str | float | int) -> None:
        """Count `amount` more units.

        Of the facts `bytes` is counted as well; others replace what was shown before.
        """
        self.done += amount
        self._bytes += int(facts.pop("bytes", 0))
        self._facts.update(facts)
        self.show()

    def share(self) -> str:
        """`40%`."""
        return f"{100 * self.done // self.total}%" if self.total else "-"

    def line(self) -> str:
        """`1,200/4,000 samples  512/s  1.2 GB  loss 0.31  5.5 s left`."""
        elapsed_s = time.monotonic() - self._started_at
        rate = (self.done - self._before) / elapsed_s if elapsed_s > _SHORTEST_S else 0.0
        of_total = f"/{self.total:,}" if self.total else ""
        parts = [f"{self.done:,}{of_total} {self._unit}"]
        if rate:
            parts.append(f"{number_text(round(rate) if rate >= 10 else rate)}/s")
        if self._bytes:
            parts.append(bytes_text(self._bytes))
        parts += [fact_text(name, value) for name, value in self._facts.items()]
        if rate and self.done < self.total:
            parts.append(f"{duration_text((self.total - self.done) / rate)} left")
        else:
            parts.append(f"in {duration_text(elapsed_s)}")
        return "  ".join(parts)


def _new_bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[line]}", markup=False),
        console=Console(stderr=True),
    )


def _plain(value: Any) -> Any:
    """`value` in JSON's own types; numbers that JSON lacks (NaN, infinity) become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, PurePath) else value
