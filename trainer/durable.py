"""Files that are there in full or not at all, also after a power cut."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from cache_schema import StorageError


def write_durably(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Create or replace a file in one step.

    Args:
        path: Its folder exists.
        write: Gets the open file and writes all of it.

    Raises:
        StorageError: No space left, or the folder cannot be written. The old file is intact.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # The commit point: before this line the old file is there, after it the new one.
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, RuntimeError) as error:
        # torch.save turns what the file says into a RuntimeError of its own.
        cause = error if isinstance(error, OSError) else _storage_error_behind(error)
        if cause is None:
            raise
        raise StorageError(
            f"{path}: cannot be written ({cause.strerror or cause}). Free some space or choose "
            "another run folder with --run."
        ) from cause
    finally:
        # A rest of it would keep a full disk full.
        temporary.unlink(missing_ok=True)


def _storage_error_behind(error: BaseException) -> OSError | None:
    """The first cause of an error, if the store refused."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error if isinstance(error, OSError) else None


def write_text_durably(path: Path, text: str) -> None:
    """Create or replace a text file in one step."""
    write_durably(path, lambda file: file.write(text.encode()))
