"""What a worker process tells the one that started it: one JSON object in each line.

{"say": TEXT}                               a line for the user
{"meter": [LABEL, TOTAL, UNIT, DONE]}       a bar begins
{"advance": AMOUNT, "facts": {...}}         it moves; with `bytes` for samples of its own
{"end": LABEL}                              it ends
{"error": TEXT}                             the user can mend it; the last line
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from cache_schema import Meter, Progress


def send(**event: Any) -> None:
    """One line to whoever started this process."""
    print(json.dumps(event), flush=True)


class SentProgress:
    """Progress that is told to another process."""

    def say(self, text: str) -> None:
        """Show one line there."""
        send(say=text)

    @contextmanager
    def meter(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Meter]:
        """Open a bar there."""
        send(meter=[label, total, unit, done])
        try:
            yield self
        finally:
            send(end=label)

    def advance(self, amount: int, **facts: str | float | int) -> None:
        """Move the bar that was opened last."""
        send(advance=amount, facts=facts)


class ShownProgress:
    """Shows what a worker tells.

    Args:
        progress: Where.
        hidden: Labels of bars that are not shown.
    """

    def __init__(self, progress: Progress, hidden: str) -> None:
        self._progress = progress
        self._hidden = hidden
        self._bars: list[tuple[ExitStack, Meter | None]] = []

    def show(self, event: Mapping[str, Any]) -> None:
        """One event."""
        if "say" in event:
            self._progress.say(event["say"])
        elif "meter" in event:
            stack, label = ExitStack(), event["meter"][0]
            bar = self._progress.meter(*event["meter"])
            shown = None if label == self._hidden else stack.enter_context(bar)
            self._bars.append((stack, shown))
        elif "advance" in event:
            meter = self._bars[-1][1]
            if meter is not None:
                meter.advance(event["advance"], **event["facts"])
        elif "end" in event:
            self._bars.pop()[0].close()

    def close(self) -> None:
        """End all bars, of a worker that is gone."""
        while self._bars:
            self._bars.pop()[0].close()


def read(line: str) -> dict[str, Any] | None:
    """One event; None if the line is something that a library printed."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict):
        print(line, end="", file=sys.stderr)
        return None
    return event
