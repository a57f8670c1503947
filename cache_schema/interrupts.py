"""Ctrl-C and a scheduler's SIGTERM, kept back until the work stands between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType


class StopSignals:
    """Notes the first stop signal instead of raising in the middle of a step.

    A Ctrl-C after it acts at once; schedulers send SIGTERM several times, and to every process.
    Outside the main thread, where Python delivers no signals, it does nothing.

    Args:
        numbers: The signals that are kept back.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers
        self._received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore(*self._numbers)

    @property
    def is_requested(self) -> bool:
        """Whether somebody asked to stop."""
        return self._received is not None

    def act(self) -> None:
        """Stop as the signal asked for.

        Raises:
            KeyboardInterrupt: For Ctrl-C, and for a request that reached another process only.
            SystemExit: For SIGTERM, with the status that a shell gives it.
        """
        if self._received == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._received = number
        self._restore(signal.SIGINT)

    def _restore(self, *numbers: int) -> None:
        for number in numbers:
            if number in self._previous:
                signal.signal(number, self._previous.pop(number))  # type: ignore[arg-type]
