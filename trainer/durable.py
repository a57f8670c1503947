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
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}). Free some space or choose "
            "another run folder with --run."
        ) from error


def write_text_durably(path: Path, text: str) -> None:
    """Create or replace a text file in one step."""
    write_durably(path, lambda file: file.write(text.encode()))
