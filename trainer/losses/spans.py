"""Which tokens a phrase of a caption covers.

K phrases (boxes), T token positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Span = tuple[int, int]
"""First character and the one after the last."""


def positive_map(
    phrases: Sequence[Sequence[Span]], token_of_char: Sequence[int], num_tokens: int
) -> Tensor:
    """Mark the tokens of each phrase: (K, T) bool.

    Args:
        phrases: The character spans of each box's phrase, in the caption of its own sample.
        token_of_char: The token of each character of that caption, -1 where there is none, as at
            a space.
        num_tokens: T. Tokens past it are cut off.

    Source: MDETR's positive map. The authors' contrastive loss looks a span that starts or ends
    on a space up in the first caption of the batch; here always in its own.
    """
    marks_KT = torch.zeros(len(phrases), num_tokens, dtype=torch.bool)
    for row, spans in enumerate(phrases):
        for start, end in spans:
            # A boundary without a token moves inwards by up to two characters.
            first = _first_token(token_of_char, (start, start + 1, start + 2))
            last = _first_token(token_of_char, (end - 1, end - 2, end - 3))
            if first is not None and last is not None:
                marks_KT[row, first : last + 1] = True
    return marks_KT


def _first_token(token_of_char: Sequence[int], characters: Sequence[int]) -> int | None:
    for character in characters:
        if 0 <= character < len(token_of_char) and token_of_char[character] >= 0:
            return int(token_of_char[character])
    return None
