"""Read captions from a pickle that can do nothing but hold captions.

A pickle may name any function to be called while it is read. MSVD's captions are published as
one, and need none: dictionaries, lists, words and numbers have instructions of their own.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ..errors import DataError


class _PlainUnpickler(pickle.Unpickler):
    """Builds built-in containers, strings and numbers, and refuses everything else."""

    def __init__(self, file: BinaryIO) -> None:
        # Pickles of Python 2 hold byte strings.
        super().__init__(file, encoding="utf-8", errors="replace")

    def find_class(self, module_name: str, global_name: str, /) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for the object {pid!r}")


def read_captions(path: Path) -> dict[str, list[str]]:
    """Clip to its captions.

    Args:
        path: Pickle of a mapping to lists of captions, each a string or a list of words.

    Raises:
        DataError: It is no pickle, holds more than plain data, or no captions.
    """
    try:
        with path.open("rb") as file:
            document = _PlainUnpickler(file).load()
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError, OverflowError,
            TypeError, AttributeError, MemoryError) as error:  # fmt: skip
        raise DataError(
            f"{path}: cannot be read as plain captions: {error}, needed a mapping from clips to "
            "lists of words. Get it again from a source that you trust; nothing in it was run."
        ) from error
    if not isinstance(document, dict):
        raise DataError(f"{path}: holds {type(document).__name__}, needed a mapping from clips.")
    return {str(name): _captions(path, name, value) for name, value in document.items()}


def _captions(path: Path, name: object, value: object) -> list[str]:
    if not isinstance(value, list | tuple):
        raise DataError(f"{path}: {name!r} holds {value!r}, needed a list of captions.")
    captions = []
    for caption in value:
        words = [caption] if isinstance(caption, str) else caption
        if not isinstance(words, list | tuple) or not all(isinstance(w, str) for w in words):
            raise DataError(f"{path}: {name!r} has the caption {caption!r}, needed its words.")
        if text := " ".join(" ".join(words).split()):
            captions.append(text)
    return captions
