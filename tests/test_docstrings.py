"""The built-in data set: real, deterministic, and without variants of a text across splits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from extractor import DataConfig, open_data
from extractor.inputs.docstrings import FAMILIES, build_docstrings


@cache
def splits() -> dict[str, dict[str, list[str]]]:
    return build_docstrings()


def test_it_has_thousands_of_texts_in_ten_families_of_similar_size() -> None:
    counts = Counter(label for columns in splits().values() for label in columns["label"])

    assert 2000 <= counts.total() <= 4000
    assert set(counts) == set(FAMILIES)
    assert max(counts.values()) < 4 * min(counts.values())
    assert min(Counter(splits()["test"]["label"]).values()) >= 20


def test_it_is_the_same_in_every_process() -> None:
    """Sets of words are walked in another order under another hash seed."""
    code = (
        "import json; from extractor.inputs.docstrings import build_docstrings;"
        " print(json.dumps(build_docstrings()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        check=True,
    )

    assert json.loads(done.stdout) == splits()


def test_splits_have_the_stated_sizes() -> None:
    sizes = {name: len(columns["text"]) for name, columns in splits().items()}

    assert sizes["validation"] / sum(sizes.values()) == pytest.approx(0.15, abs=0.03)
    assert sizes["test"] / sum(sizes.values()) == pytest.approx(0.2, abs=0.03)


def test_no_text_has_a_variant_in_another_split() -> None:
    """A test text that differs from a training text by a word would be remembered, not judged."""

    def runs(text: str) -> frozenset[tuple[str, ...]]:
        words = re.findall(r"[a-z0-9]+", text.lower())
        return frozenset(zip(words, words[1:], words[2:], strict=False))

    train = [runs(text) for text in splits()["train"]["text"]]
    by_run: dict[tuple[str, ...], list[int]] = {}
    for index, text_runs in enumerate(train):
        for run in text_runs:
            by_run.setdefault(run, []).append(index)
    for text in splits()["test"]["text"]:
        own = runs(text)
        for index in {index for run in own for index in by_run.get(run, [])}:
            shared = len(own & train[index]) / len(own | train[index])
            assert shared < 0.5, f"{text!r} is like {splits()['train']['text'][index]!r}"


def test_it_opens_like_any_other_data() -> None:
    source = open_data(DataConfig(data=("python-docstrings",), splits=("test",)))

    assert list(source.splits) == ["test"]
    assert source.targets[0].spec.classes == tuple(sorted(FAMILIES))
    assert source.samples("test", 0, 1)[0]["text"] == splits()["test"]["text"][0]
