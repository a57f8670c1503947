"""Where the words of a text begin among its tokens, for tasks that label words.

T tokens, W words.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from .word_views import word_of_tokens

if TYPE_CHECKING:
    from tokenizers import Encoding

WORD_ROWS = "word_rows"
_BETWEEN_SPACES = re.compile(r"\S+")


def word_rows(encoding: Encoding, text: str) -> np.ndarray:
    """(W,) int32: the first token of each word between spaces of the first text.

    -1 where a word has none: it was cut off, or its characters are part of the next word's token.
    """
    words_T = word_of_tokens(encoding, text, _BETWEEN_SPACES)
    rows_W = np.full(len(_BETWEEN_SPACES.findall(text)), -1, np.int32)
    found, first = np.unique(words_T, return_index=True)
    rows_W[found[found >= 0]] = first[found >= 0]
    return rows_W
