"""Recalls and rank statistics of retrieval, both ways.

I items (images or videos), S texts, E features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .ranks import Ties, rank_embeddings, rank_merged

Median = Literal["midpoint", "floor", "lower"]
Protocol = Literal["vse-infinity", "clip4clip", "clip4clip-sentences"]


@dataclass(frozen=True)
class RecallSummary:
    """How well one direction of retrieval works.

    Attributes:
        r1: Percentage of queries whose own candidate comes first.
        r5: Among the first five.
        r10: Among the first ten.
        median_rank: From 1.
        mean_rank: From 1.
    """

    r1: float
    r5: float
    r10: float
    median_rank: float
    mean_rank: float


@dataclass(frozen=True)
class TwoWayRecall:
    """Retrieval of texts by items, and of items by texts."""

    item_to_text: RecallSummary
    text_to_item: RecallSummary

    @property
    def rsum(self) -> float:
        """The sum of all six recalls, at most 600."""
        return sum(way.r1 + way.r5 + way.r10 for way in (self.item_to_text, self.text_to_item))


def summarize_places(places: Tensor, median: Median = "midpoint") -> RecallSummary:
    """Recalls in percent and rank statistics.

    Args:
        places: (Q,) from 0.
        median: Of an even number of places: their `midpoint` (CLIP4Clip), that rounded down
            (`floor`, VSE-infinity), or the `lower` of the two (CLIP4Clip with several sentences).
    """
    values = places.cpu().numpy()
    r1, r5, r10 = (100.0 * float(np.mean(values < k)) for k in (1, 5, 10))
    if median == "lower":
        middle = float(np.sort(values)[(len(values) - 1) // 2])
    else:
        middle = float(np.median(values))
    if median == "floor":
        middle = float(np.floor(middle))
    return RecallSummary(r1, r5, r10, middle + 1, float(values.mean()) + 1)


def two_way_recall(
    items_IE: Tensor,
    texts_SE: Tensor,
    item_of_text: Tensor,
    *,
    ties: Ties = "strict",
    median: Median = "floor",
) -> TwoWayRecall:
    """Both directions, an item counting as found by the best-placed of its texts.

    Args:
        items_IE: Embeddings of images or videos.
        texts_SE: Embeddings of texts, any number for each item.
        item_of_text: (S,) int64, the row of each text's item.
        ties: How equal scores count, see `Ranks.places`.
        median: See `summarize_places`.
    """
    item_I = torch.arange(len(items_IE), device=item_of_text.device)
    found_texts = rank_embeddings(items_IE, texts_SE, item_I, item_of_text)
    found_items = rank_embeddings(texts_SE, items_IE, item_of_text, item_I)
    return TwoWayRecall(
        summarize_places(found_texts.places(ties), median),
        summarize_places(found_items.places(ties), median),
    )


def recall_by(
    protocol: Protocol, items_IE: Tensor, texts_SE: Tensor, item_of_text: Tensor
) -> TwoWayRecall:
    """Both directions, counted as the authors of one of the systems do.

    Args:
        protocol: `vse-infinity`: only larger scores stand in front, medians are rounded down.
            `clip4clip`: each place of a tie counts. `clip4clip-sentences`: for videos with
            several sentences; a video finds videos, each by the best of its sentences, and only
            there ties count.
        items_IE: Embeddings of images or videos.
        texts_SE: Embeddings of texts, any number for each item.
        item_of_text: (S,) int64, the row of each text's item.
    """
    if protocol == "vse-infinity":
        return two_way_recall(items_IE, texts_SE, item_of_text)
    if protocol == "clip4clip":
        return two_way_recall(items_IE, texts_SE, item_of_text, ties="every", median="midpoint")
    item_I = torch.arange(len(items_IE), device=item_of_text.device)
    found_items = rank_embeddings(texts_SE, items_IE, item_of_text, item_I)
    found_texts = rank_merged(items_IE, texts_SE, item_of_text)
    return TwoWayRecall(
        summarize_places(found_texts.places("every"), "midpoint"),
        summarize_places(found_items.places("strict"), "lower"),
    )


def recall_of_folds(
    items_IE: Tensor,
    texts_SE: Tensor,
    item_of_text: Tensor,
    *,
    num_folds: int = 5,
    protocol: Protocol = "vse-infinity",
) -> list[TwoWayRecall]:
    """Evaluate equal, consecutive parts of the items on their own: MSCOCO's "5 x 1K".

    Other arguments as for `recall_by`.

    Raises:
        ValueError: The items cannot be cut into equal parts.
    """
    if len(items_IE) % num_folds:
        raise ValueError(
            f"retrieval folds: {len(items_IE)} items do not divide into {num_folds} equal parts. "
            "Choose another number of folds, or evaluate all items at once."
        )
    size = len(items_IE) // num_folds
    folds = []
    for start in range(0, len(items_IE), size):
        is_inside_S = (item_of_text >= start) & (item_of_text < start + size)
        folds.append(
            recall_by(
                protocol,
                items_IE[start : start + size],
                texts_SE[is_inside_S],
                item_of_text[is_inside_S] - start,
            )
        )
    return folds


def mean_of_folds(folds: list[TwoWayRecall]) -> TwoWayRecall:
    """Average every number over the folds."""
    return TwoWayRecall(
        _mean([fold.item_to_text for fold in folds]), _mean([fold.text_to_item for fold in folds])
    )


def _mean(ways: list[RecallSummary]) -> RecallSummary:
    columns = np.mean([[w.r1, w.r5, w.r10, w.median_rank, w.mean_rank] for w in ways], axis=0)
    return RecallSummary(*columns.tolist())
