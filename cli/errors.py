"""Exception -> one line on stderr and an exit code. Only here is an exception turned into text."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

USER_ERROR = 2  # as for a wrong flag
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
AGAIN = "run the same command again to go on"

STORAGE_ADVICE = {
    errno.ENOSPC: "Free some space, or choose a place on another disk, and run it again.",
    errno.EDQUOT: "Your quota is used up: free some space, or choose another place.",
    errno.EROFS: "Choose a folder that can be written to.",
    errno.EACCES: "Choose a folder that you may write to, or change its permissions.",
    errno.EPERM: "Choose a folder that you may write to, or change its permissions.",
}


@contextmanager
def shown_as_one_line() -> Iterator[None]:
    """Leave with an exit code where the user can act; let a bug keep its traceback."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        # Ctrl-C while a dataclass was made leaves a mark by which `python -m` ends in a signal,
        # whatever the exit code. Evaluating a string takes it away (CPython's run_eval_code_obj).
        eval("None")
        _leave(f"interrupted; {str(interrupt) or AGAIN}", INTERRUPTED)
    except Exception as error:
        message = message_for_user(error)
        if message is None:
            raise
        _leave(f"error: {message}", USER_ERROR)


def message_for_user(error: Exception) -> str | None:
    """What to tell the user about `error`, or None if it is a bug of ours."""
    # Nobody can have raised its errors without importing it, and `--help` must not.
    schema = sys.modules.get("cache_schema")
    if schema is not None and isinstance(error, schema.UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in STORAGE_ADVICE:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}. {STORAGE_ADVICE[error.errno]}"
    return None


def _leave(line: str, code: int) -> None:
    print(line, file=sys.stderr, flush=True)
    raise typer.Exit(code)
