"""Where the words of a text begin among its tokens, for tasks that label words.

T tokens, W words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Encoding

FIRST_TOKENS = "first_tokens"
_BETWEEN_SPACES = re.compile(r"\S+")
# SentencePiece writes white space so, and tells that it comes from the character behind it.
_SPACE_PIECE = "\u2581"


def whole_text(text: str | Sequence[str]) -> str:
    """A text as it is tokenised: words that were given apart stand between spaces."""
    return text if isinstance(text, str) else " ".join(text)


def word_spans(text: str | Sequence[str]) -> list[tuple[int, int]]:
    """Start and stop of each word in `whole_text(text)`: those given, or what spaces separate."""
    if isinstance(text, str):
        return [found.span() for found in _BETWEEN_SPACES.finditer(text)]
    stops = [stop - 1 for stop in accumulate(len(word) + 1 for word in text)]
    # Spaces that a given word begins with are as little of it as those between words.
    return [(stop - len(word.lstrip()), stop) for word, stop in zip(text, stops, strict=True)]


def first_tokens(encoding: Encoding, text: str | Sequence[str]) -> np.ndarray:
    """(W,) int32: the first token of each word of the first text, that holds some of the word.

    A token of white space alone counts only where the word has no other. -1 where a word has no
    token: it was cut off, or the tokenizer drops its characters.
    """
    spans = word_spans(text)
    word_at = np.full(len(whole_text(text)), -1)
    for word, (start, stop) in enumerate(spans):
        word_at[start:stop] = word
    tokens_W, spaces_W = np.full((2, len(spans)), -1, np.int32)
    # Backwards: the first token of a word is the last one to be written.
    for at in reversed(range(len(encoding.ids))):
        if encoding.sequence_ids[at] == 0 and not encoding.special_tokens_mask[at]:
            held = word_at[slice(*encoding.offsets[at])]
            is_space = not encoding.tokens[at].strip(_SPACE_PIECE)
            (spaces_W if is_space else tokens_W)[held[held >= 0]] = at
    return np.where(tokens_W >= 0, tokens_W, spaces_W)
