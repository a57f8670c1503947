"""Spans in a row of labels such as `B-PER I-PER O`.

W words of a text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Span = tuple[str, int, int]
"""Type, first word, and the one after the last."""

_LABEL = re.compile(r"([BIESLU])-(.+)")
_STARTS, _ENDS = "BSU", "ESLU"


def are_span_labels(labels: Iterable[str]) -> bool:
    """Whether labels are `O` and `B-type`, `I-type` (also `E-`, `L-`, `S-` and `U-`)."""
    named = [label for label in labels if label != "O"]
    return bool(named) and all(_LABEL.fullmatch(label) for label in named)


def label_spans(labels: Sequence[str]) -> set[Span]:
    """The spans of one text.

    A span begins at `B-`, `S-` or `U-`, and where a type follows another one or none, so that
    `O I-PER` holds a person. It ends after `E-`, `L-`, `S-` and `U-`, or before what does not
    continue it.

    Source: the rules of CoNLL's evaluation (conlleval), which `seqeval` follows by default.
    """
    spans = set()
    start, kind = 0, None
    for word, label in enumerate([*labels, "O"]):
        match = _LABEL.fullmatch(label)
        prefix, found = match.groups() if match else ("O", None)
        if kind is not None and (found != kind or prefix in _STARTS):
            spans.add((kind, start, word))
            kind = None
        if found is not None and kind is None:
            start, kind = word, found
        if found is not None and prefix in _ENDS:
            spans.add((found, start, word + 1))
            kind = None
    return spans
