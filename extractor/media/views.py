"""Augmented views, drawn from the source row and the number of the view and nothing else.

So a view is the same in every run, on every machine and in whatever order samples are read.
W words of a text.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import numpy as np

from ..augmentation import Augmentation
from .recipe import View

# A random stream for each kind of draw: the crop of an image says nothing about its caption.
_IMAGE_STREAM, _WORD_STREAM, _TOKEN_STREAM = 1, 2, 3
# Of the words that change, as in BERT's masking and VSE-infinity's; the others are removed.
_MASKED_SHARE, _REPLACED_SHARE = 0.5, 0.1


class WordChange(IntEnum):
    """What becomes of a word."""

    KEPT = 0
    MASKED = 1
    REPLACED = 2
    REMOVED = 3


def draw_view(row_id: int, view: int, augmentation: Augmentation | None = None) -> View | None:
    """Which part of an image a view shows; None for view 0, the image as it is.

    Height and width shrink by the same factor, so proportions stay.

    Args:
        row_id: The sample's row in the source data.
        view: Number of the view.
        augmentation: How far it may go; the recipe's defaults if None.
    """
    if view == 0:
        return None
    chosen = augmentation or Augmentation()
    side, left, upper, flip = _uniforms(row_id, view, _IMAGE_STREAM, 4).tolist()
    side = chosen.crop + (1 - chosen.crop) * side
    left, upper = left * (1 - side), upper * (1 - side)
    return View((left, upper, min(1.0, left + side), min(1.0, upper + side)), flip < chosen.flip)


def view_of(sample: Mapping[str, Any]) -> View | None:
    """The view that a sample's image or frames are seen in; None for the image as it is.

    Args:
        sample: With its `id`, `view` and, where it is not the recipe's, `augmentation`.
    """
    view = int(sample.get("view", 0))
    return None if view == 0 else draw_view(sample["id"], view, sample.get("augmentation"))


def drop_words(
    num_words: int,
    row_id: int,
    view: int,
    *,
    part: int = 0,
    augmentation: Augmentation | None = None,
) -> np.ndarray:
    """What becomes of each word of a text in a view; at least one word is kept.

    Args:
        num_words: W, 0 or more.
        row_id: The sample's row in the source data.
        view: Number of the view; 0 keeps every word.
        part: Which of the texts of that row it is.
        augmentation: How many words change; the recipe's share if None.

    Returns:
        (W,) int64 of `WordChange`.
    """
    share = (augmentation or Augmentation()).words
    draws_W = _uniforms(row_id, view, _WORD_STREAM, num_words, part)
    changes_W = np.zeros(num_words, dtype=np.int64)
    if view == 0:
        return changes_W
    removed = share * (_MASKED_SHARE + _REPLACED_SHARE)
    changes_W[draws_W < share] = WordChange.REMOVED
    changes_W[draws_W < removed] = WordChange.REPLACED
    changes_W[draws_W < share * _MASKED_SHARE] = WordChange.MASKED
    if num_words and changes_W.all():
        changes_W[int(draws_W.argmax())] = WordChange.KEPT
    return changes_W


def draw_tokens(
    num_tokens: int, num_choices: int, row_id: int, view: int, part: int = 0
) -> np.ndarray:
    """(num_tokens,) int64 below `num_choices`: what replaces the tokens of replaced words."""
    draws = _uniforms(row_id, view, _TOKEN_STREAM, num_tokens, part)
    return (draws * num_choices).astype(np.int64)


def _uniforms(row_id: int, view: int, stream: int, count: int, part: int = 0) -> np.ndarray:
    """(count,) float64 in [0, 1).

    Only Philox's raw bits are used: NumPy keeps them the same in all versions (NEP 19).
    """
    key = np.array([row_id, view], np.uint64)
    counter = np.array([0, 0, part, stream], np.uint64)
    raw = np.random.Philox(key=key, counter=counter).random_raw(count)
    uniforms: np.ndarray = (raw >> np.uint64(11)) * 2.0**-53
    return uniforms
