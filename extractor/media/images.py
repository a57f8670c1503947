"""Decode images, several at a time, and say of each that cannot be decoded why."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TypeVar

from PIL import Image

from ..rgb import as_rgb

ImageSource = str | Path | bytes
"""A file, or its bytes."""

S = TypeVar("S")
T = TypeVar("T")


class UnreadableMediaError(Exception):
    """An image or a video that is missing, damaged or of an unknown format."""


def load_image(source: ImageSource) -> Image.Image:
    """The whole image as RGB, as stored: a rotation noted in its EXIF data is not applied.

    Raises:
        UnreadableMediaError: Names the file and what is wrong.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return as_rgb(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise unreadable(source, error) from error


def image_size(source: ImageSource) -> tuple[int, int]:
    """Height and width in pixels, from the file's header.

    Raises:
        UnreadableMediaError: Names the file and what is wrong.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise unreadable(source, error) from error


def unreadable(source: ImageSource, error: Exception) -> UnreadableMediaError:
    """The error that names a file; `error` is what its reader said."""
    name = "image in the data" if isinstance(source, bytes) else str(source)
    if isinstance(error, FileNotFoundError):
        return UnreadableMediaError(f"{name}: there is no such file")
    said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if "cannot identify image file" in said:
        said = "not an image, or of an unknown format"
    return UnreadableMediaError(f"{name}: cannot be read ({said})")


def read_all(
    sources: Sequence[S], read: Callable[[S], T]
) -> tuple[Mapping[int, T], Mapping[int, str]]:
    """Read many files in parallel; decoders release the interpreter lock.

    Args:
        sources: What to read.
        read: Reads one; may raise UnreadableMediaError.

    Returns:
        Position to what was read, and position to why it could not be.
    """

    def attempt(source: S) -> T | UnreadableMediaError:
        try:
            return read(source)
        except UnreadableMediaError as error:
            return error

    results = list(_pool().map(attempt, sources))
    failures = {at: str(r) for at, r in enumerate(results) if isinstance(r, UnreadableMediaError)}
    found = {at: r for at, r in enumerate(results) if not isinstance(r, UnreadableMediaError)}
    return found, failures


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="unipt-decode")
