"""A small real data set that every machine has: docstrings of Python's own standard library.

Each text is what one docstring says first, its label is the family of packages it documents. The
source is parsed, never imported, so nothing runs. Equal Python versions give equal rows.
"""

from __future__ import annotations

import ast
import hashlib
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from .errors import DataError

# Raised whenever the rows of one Python version change.
BUILDER_VERSION = 1

# Top-level modules of CPython 3.11 to 3.14 that Debian installs with `python3`; families of about
# equal size, told apart by subject rather than by a name in the text.
FAMILIES: dict[str, tuple[str, ...]] = {
    "asyncio": ("asyncio",),
    "email": ("email", "mailbox", "smtplib", "imaplib", "poplib"),
    "files": ("pathlib", "shutil", "tempfile", "tarfile", "zipfile", "gzip", "bz2", "lzma", "_pyio",
              "os", "posixpath", "ntpath", "genericpath", "fileinput", "glob", "filecmp"),
    "http": ("http", "urllib", "wsgiref", "socketserver", "xmlrpc", "ftplib", "ssl", "webbrowser"),
    "importlib": ("importlib", "pkgutil", "zipimport", "runpy", "modulefinder", "sysconfig"),
    "logging": ("logging", "warnings"),
    "multiprocessing": ("multiprocessing", "concurrent", "threading", "queue", "subprocess"),
    "numbers": ("_pydecimal", "fractions", "statistics", "numbers", "random", "colorsys"),
    "unittest": ("unittest", "doctest"),
    "xml": ("xml", "html"),
}  # fmt: skip

# Shorter ones say nothing about their family ("Return the name."), in characters and words.
_MIN_CHARS, _MIN_WORDS = 30, 5
_MAX_CHARS = 400
# Share of equal three-word runs from which two texts count as variants of each other.
_SAME = 0.5
_VALIDATION_SHARE, _TEST_SHARE = 0.15, 0.2


def build_docstrings() -> dict[str, dict[str, list[str]]]:
    """Split to its columns `text` and `label`; variants of a text are in one split.

    Raises:
        DataError: This Python comes without the source of its library.
    """
    label_of: dict[str, set[str]] = {}
    original: dict[str, str] = {}
    for label, text in _labelled_texts():
        key = " ".join(_words(text))
        label_of.setdefault(key, set()).add(label)
        original.setdefault(key, text)
    # The same words in two families have no right answer.
    keys = sorted((key for key, labels in label_of.items() if len(labels) == 1), key=_digest)
    if len(keys) < 1000:
        raise DataError(
            f"python-docstrings: {len(keys)} docstrings found in {_library()}, needed 1000. "
            "Install the standard library's source, or name a data file."
        )
    splits: dict[str, dict[str, list[str]]] = {
        name: {"text": [], "label": []} for name in ("train", "validation", "test")
    }
    for key, leader in zip(keys, _leaders(keys), strict=True):
        columns = splits[_split(keys[leader])]
        columns["text"].append(original[key])
        columns["label"].append(next(iter(label_of[key])))
    return splits


def _labelled_texts() -> Iterator[tuple[str, str]]:
    library = _library()
    for label, modules in FAMILIES.items():
        for module in modules:
            package, single = library / module, library / f"{module}.py"
            files = sorted(package.rglob("*.py")) if package.is_dir() else [single]
            for file in files:
                parts = set(file.relative_to(library).parts)
                if file.is_file() and not parts & {"test", "tests", "__pycache__"}:
                    for docstring in _docstrings(file):
                        text = _opening(docstring)
                        if len(text) >= _MIN_CHARS and len(_words(text)) >= _MIN_WORDS:
                            yield label, text


def _docstrings(file: Path) -> Iterator[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    with warnings.catch_warnings():
        # Old escape sequences in the library are not this data set's business.
        warnings.simplefilter("ignore")
        tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, kinds):
            yield ast.get_docstring(node) or ""


def _opening(docstring: str) -> str:
    """The first paragraph on one line, with the second where the first is a mere headline."""
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", docstring.strip())]
    text = paragraphs[0]
    if len(text) < 2 * _MIN_CHARS and len(paragraphs) > 1 and ">>>" not in paragraphs[1]:
        text = f"{text} {paragraphs[1]}"
    return text if len(text) <= _MAX_CHARS else text[:_MAX_CHARS].rsplit(" ", 1)[0]


def _leaders(keys: list[str]) -> list[int]:
    """For each text the first text of its group of variants, found by shared three-word runs."""
    runs = [_runs(key) for key in keys]
    holders: dict[tuple[str, ...], list[int]] = {}
    leader = list(range(len(keys)))
    for index, own in enumerate(runs):
        shared = Counter(other for run in own for other in holders.setdefault(run, []))
        for other, count in shared.items():
            if count / (len(own) + len(runs[other]) - count) >= _SAME:
                _union(leader, index, other)
        for run in own:
            holders[run].append(index)
    return [_find(leader, index) for index in range(len(keys))]


def _union(leader: list[int], one: int, other: int) -> None:
    first, second = sorted((_find(leader, one), _find(leader, other)))
    leader[second] = first


def _find(leader: list[int], index: int) -> int:
    while leader[index] != index:
        index = leader[index]
    return index


def _runs(key: str) -> set[tuple[str, ...]]:
    words = key.split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _split(leader: str) -> str:
    # Another hash than the one that orders the texts: leaders are the first of their groups.
    position = int(_digest(f"split {leader}")[:8], 16) / 2**32
    if position < _TEST_SHARE:
        return "test"
    return "validation" if position < _TEST_SHARE + _VALIDATION_SHARE else "train"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))
