"""How a stage tells a person where it is, without knowing about terminals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Meter(Protocol):
    """One running count, such as samples of an extraction."""

    def advance(self, amount: int, **facts: str | float | int) -> None:
        """Count `amount` more units; `facts` are shown beside the bar (loss=0.31, ...)."""


class Progress(Protocol):
    """Where a stage reports to; `cli/console.py` draws it."""

    def say(self, text: str) -> None:
        """Show one line that the user should read."""

    def meter(
        self, label: str, total: int, unit: str, done: int = 0
    ) -> AbstractContextManager[Meter]:
        """Open a bar of `total` units of which `done` are done already."""


class _SilentMeter:
    def advance(self, amount: int, **facts: str | float | int) -> None:
        """Count nothing."""


class SilentProgress:
    """Reports to nobody: the default for Python users."""

    def say(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def meter(self, label: str, total: int, unit: str, done: int = 0) -> Iterator[Meter]:
        """Draw nothing."""
        yield _SilentMeter()
