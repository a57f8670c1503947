"""Augmented views of tokenised texts: words masked, replaced or removed, token by token.

T tokens of a text, special ones included; W words.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..media import WordChange, draw_tokens, drop_words

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer
    from transformers import PreTrainedTokenizerBase

    from .base import Sample

# Whatever the tokenizer cuts words into, a word is the same in all of them.
_WORD = re.compile(r"\w+|[^\w\s]")


class WordViews:
    """Changes the words of a text as its view says; of a pair only the first text.

    A tokenizer without a mask token removes the words that would be masked.

    Source: VSE-infinity's caption augmentation, which UniPT's image-text recipe uses.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, backend: Tokenizer) -> None:
        self._backend = backend
        self._mask_id: int | None = tokenizer.mask_token_id
        self._special_ids = frozenset(tokenizer.all_special_ids)

    def change(self, encoding: Encoding, text: str, sample: Sample) -> tuple[list[int], list[int]]:
        """Token ids and segment ids of a view.

        Args:
            encoding: The tokenised sample, with offsets.
            text: Its first text.
            sample: With its `id`, `view`, and maybe `part` and `augmentation`.
        """
        drawn: dict[str, Any] = dict(sample)
        row, view, part = drawn["id"], drawn["view"], drawn.get("part", 0)
        words_T = word_of_tokens(encoding, text)
        names, at = np.unique(words_T, return_inverse=True)
        num_words = int((names >= 0).sum())
        changes_W = drop_words(
            num_words, row, view, part=part, augmentation=drawn.get("augmentation")
        )
        # -1, where it occurs, sorts first: tokens of no word, which stay.
        changes_T = np.concatenate([np.zeros(len(names) - num_words, np.int64), changes_W])[at]
        ids_T, segments_T = np.array(encoding.ids), np.array(encoding.type_ids)
        if self._mask_id is None:
            changes_T[changes_T == WordChange.MASKED] = WordChange.REMOVED
        else:
            ids_T[changes_T == WordChange.MASKED] = self._mask_id
        replaced_T = changes_T == WordChange.REPLACED
        draws = draw_tokens(int(replaced_T.sum()), len(self._choices), row, view, part)
        ids_T[replaced_T] = self._choices[draws]
        kept_T = changes_T != WordChange.REMOVED
        return ids_T[kept_T].tolist(), segments_T[kept_T].tolist()

    @cached_property
    def _choices(self) -> np.ndarray:
        """Ids that may replace a token: all but the special ones."""
        known = set(self._backend.get_vocab(with_added_tokens=False).values())
        return np.array(sorted(known - self._special_ids))


def word_of_tokens(encoding: Encoding, text: str) -> np.ndarray:
    """(T,) int64: the word of the first text that each token ends in; -1 for other tokens.

    White space that a tokenizer makes a token of belongs to the word behind it.
    """
    word_at = np.full(len(text) + 1, -1)
    for number, found in enumerate(_WORD.finditer(text)):
        word_at[found.start() : found.end()] = number
    words_T = np.full(len(encoding.ids), -1)
    following = -1
    for at in reversed(range(len(words_T))):
        if encoding.sequence_ids[at] != 0 or encoding.special_tokens_mask[at]:
            following = -1
            continue
        start, end = encoding.offsets[at]
        word = int(word_at[end - 1]) if end > start else -1
        following = words_T[at] = following if word < 0 else word
    return words_T
