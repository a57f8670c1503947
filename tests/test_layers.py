"""The arrows between the folders: who may import whom, and through which door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "cache_schema": set(),
    "extractor": {"cache_schema"},
    "trainer": {"cache_schema"},
    "cli": {"cache_schema", "extractor", "trainer", "unipt"},
    "unipt": {"cache_schema", "extractor", "trainer"},
}


def violations(package: str, source: str) -> Iterator[str]:
    """Each import in `source`, a module of `package`, that crosses a border it must not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        for name in names:
            top, _, inside = name.partition(".")
            if top == package:
                yield f"line {node.lineno}: {name}: relative inside a folder"
            elif top in ALLOWED and top not in ALLOWED[package]:
                yield f"line {node.lineno}: {package} may not import {top}"
            elif top in ALLOWED and inside:
                yield f"line {node.lineno}: {name}: across folders only from {top} itself"


def sources(package: str) -> list[Path]:
    """The modules of a folder, or the one module of that name."""
    folder = ROOT / package
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [ROOT / f"{package}.py"]


@pytest.mark.parametrize("package", ALLOWED)
def test_each_folder_imports_only_what_lies_below_it(package: str) -> None:
    """The extractor and the trainer share nothing but the cache: either can be replaced."""
    found = [
        f"{path.relative_to(ROOT)}: {violation}"
        for path in sources(package)
        for violation in violations(package, path.read_text())
    ]

    assert sources(package)
    assert found == []


@pytest.mark.parametrize(
    ("package", "source", "words"),
    [
        ("extractor", "from trainer import fit", "extractor may not import trainer"),
        ("trainer", "def f():\n    import extractor", "trainer may not import extractor"),
        ("cache_schema", "from extractor import extract", "cache_schema may not import extractor"),
        ("trainer", "import unipt", "trainer may not import unipt"),
        ("cli", "from extractor.inputs import open_data", "only from extractor itself"),
        ("trainer", "from trainer.loop import fit", "relative inside a folder"),
    ],
)
def test_a_crossed_border_is_found(package: str, source: str, words: str) -> None:
    """Guards the guard: each kind of forbidden import, even inside a function, is reported."""
    assert [words in violation for violation in violations(package, source)] == [True]


def test_allowed_imports_pass() -> None:
    """Relative imports, other people's packages and the doors of lower folders are fine."""
    source = "import torch\nfrom .order import shuffle\nfrom cache_schema import FeatureBatch"

    assert list(violations("trainer", source)) == []
