"""The same metrics over many batches, as torchmetrics.

Not imported by `trainer.metrics` itself: torchmetrics loads torchvision and takes seconds.

B samples of a batch, Q predicted boxes or questions, A answers, I items (images or videos),
S texts, E features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ..boxes import generalized_iou
from .answers import scores_of_choices
from .grounding import Overlap, hits
from .recall import Protocol, mean_of_folds, recall_of_folds


class BalancedAccuracy(Metric):
    """Mean recall of the classes that samples belong to, over many batches.

    torchmetrics counts a class without samples as one of recall 0 once it is predicted; here, as
    in scikit-learn, it does not count.

    Args:
        num_classes: How many there are.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    hits: Tensor
    samples: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self._num_classes = num_classes
        for name in ("hits", "samples"):
            zeros = torch.zeros(num_classes, dtype=torch.int64)
            self.add_state(name, zeros, dist_reduce_fx="sum")

    def update(self, logits_BC: Tensor, classes_B: Tensor) -> None:
        """Add the samples of one batch."""
        right_B = classes_B[logits_BC.argmax(1) == classes_B]
        self.hits += right_B.bincount(minlength=self._num_classes)
        self.samples += classes_B.bincount(minlength=self._num_classes)

    def compute(self) -> Tensor:
        """In [0, 1], float64."""
        there = self.samples > 0
        return (self.hits[there].double() / self.samples[there]).mean()


class SoftAccuracy(Metric):
    """`soft_accuracy` over many batches."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits_QA: Tensor, targets_QA: Tensor) -> None:
        """Add the questions of one batch."""
        self.total += scores_of_choices(logits_QA, targets_QA).sum(dtype=torch.float64)
        self.count += len(logits_QA)

    def compute(self) -> Tensor:
        """Mean soft score of all questions, in [0, 1]."""
        return self.total / self.count


class BestScore(SoftAccuracy):
    """What `SoftAccuracy` would be if every question got the best of the answers on offer."""

    def update(self, logits_QA: Tensor, targets_QA: Tensor) -> None:
        """Add the questions of one batch."""
        super().update(targets_QA, targets_QA)


class GroundingPrecision(Metric):
    """Precision at k over many batches, in [0, 1]: (len(counts),) float64."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    num_hits: Tensor
    count: Tensor

    def __init__(
        self,
        counts: Sequence[int] = (1, 5, 10),
        threshold: float = 0.5,
        overlap: Overlap = generalized_iou,
    ) -> None:
        super().__init__()
        self.counts, self.threshold, self.overlap = tuple(counts), threshold, overlap
        start = torch.zeros(len(self.counts), dtype=torch.float64)
        self.add_state("num_hits", start, dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, scores_BQ: Tensor, boxes_BQ4: Tensor, truth_B4: Tensor) -> None:
        """Add the expressions of one batch."""
        self.num_hits += hits(
            scores_BQ,
            boxes_BQ4,
            truth_B4,
            counts=self.counts,
            threshold=self.threshold,
            overlap=self.overlap,
        ).sum(dim=0)
        self.count += len(scores_BQ)

    def compute(self) -> Tensor:
        """Share of expressions found, for each k."""
        return self.num_hits / self.count


class NamedPrecision(GroundingPrecision):
    """`GroundingPrecision` as `precision_at_1`, `precision_at_5`, ..."""

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        """Share of expressions found, by name."""
        shares = super().compute()
        return {f"precision_at_{k}": share for k, share in zip(self.counts, shares, strict=True)}


class RetrievalRecall(Metric):
    """Collects embeddings and gives recalls, median and mean ranks, and Rsum.

    An item that comes with several of its texts, in one batch or in many, counts once: the first
    embedding of an item number is used.

    Args:
        num_folds: Evaluate this many equal parts of the items on their own and average; 1 for all
            at once.
        protocol: How ranks are counted, see `recall_by`.
        prefix: What the names of the numbers start with.
        skip_uneven: Give no numbers, instead of an error, where the items do not divide into
            folds.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    items: list[Tensor]
    texts: list[Tensor]
    item_ids: list[Tensor]
    text_item_ids: list[Tensor]

    def __init__(
        self,
        num_folds: int = 1,
        protocol: Protocol = "vse-infinity",
        *,
        prefix: str = "",
        skip_uneven: bool = False,
    ) -> None:
        super().__init__()
        self.num_folds, self.protocol = num_folds, protocol
        self.prefix, self.skip_uneven = prefix, skip_uneven
        for state in ("items", "texts", "item_ids", "text_item_ids"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(
        self, items_IE: Tensor, texts_SE: Tensor, item_ids_I: Tensor, text_item_ids_S: Tensor
    ) -> None:
        """Add embeddings with the item number of each."""
        self.items.append(items_IE)
        self.texts.append(texts_SE)
        self.item_ids.append(item_ids_I)
        self.text_item_ids.append(text_item_ids_S)

    def compute(self) -> dict[str, Tensor]:
        """`item_to_text_r1` ... `text_to_item_mean_rank` and `rsum`, each a float64 scalar.

        Raises:
            ValueError: A text belongs to no item, an item has no text, or the items do not divide
                into folds.
        """
        ids_I, rows_I = _first_of_each(dim_zero_cat(self.item_ids))
        text_ids_S = dim_zero_cat(self.text_item_ids)
        item_of_text = torch.searchsorted(ids_I, text_ids_S).clamp(max=len(ids_I) - 1)
        num_orphans = int((ids_I[item_of_text] != text_ids_S).sum())
        if num_orphans:
            raise ValueError(
                f"retrieval: {num_orphans} texts belong to no item that was added, needed the "
                "item of every text. Evaluate a whole split."
            )
        if self.skip_uneven and len(ids_I) % self.num_folds:
            return {}
        folds = recall_of_folds(
            dim_zero_cat(self.items)[rows_I],
            dim_zero_cat(self.texts),
            item_of_text,
            num_folds=self.num_folds,
            protocol=self.protocol,
        )
        recall = mean_of_folds(folds)
        numbers = {f"{way}_{k}": v for way, part in asdict(recall).items() for k, v in part.items()}
        numbers["rsum"] = recall.rsum
        return {
            f"{self.prefix}{name}": torch.tensor(number, dtype=torch.float64)
            for name, number in numbers.items()
        }


def _first_of_each(ids: Tensor) -> tuple[Tensor, Tensor]:
    """The different numbers, ascending, and the row at which each comes first."""
    values, group = torch.unique(ids, return_inverse=True)
    rows = torch.arange(len(ids), device=ids.device)
    latest = torch.full_like(values, len(ids))
    return values, latest.scatter_reduce(0, group, rows, "amin")
