"""At which place a query finds what belongs to it, without ever holding all scores.

Q queries, C candidates, b queries of one block, E features, G groups of candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Ties = Literal["strict", "every"]

BLOCK_BYTES = 16 * 2**20
"""Scores held at once; larger blocks were not faster (docs/losses-and-metrics.md)."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """The places of the queries' best positives, as counts of what stands in front.

    Attributes:
        ahead: (Q,) int64, candidates with a strictly larger score.
        tied: (Q,) int64, negatives with exactly the same score.
    """

    ahead: Tensor
    tied: Tensor

    def places(self, ties: Ties = "strict") -> Tensor:
        """Places from 0, in query order.

        Args:
            ties: `strict`: (Q,), only larger scores stand in front. `every`: a query contributes
                each place that its tied positive could take, so there may be more than Q; this
                is how CLIP4Clip's `compute_metrics` counts.
        """
        if ties == "strict":
            return self.ahead
        counts = self.tied + 1
        starts = counts.cumsum(0) - counts
        steps = torch.arange(int(counts.sum()), device=counts.device)
        return steps - (starts - self.ahead).repeat_interleave(counts)


def rank_scores(scores_QC: Tensor, query_groups: Tensor, candidate_groups: Tensor) -> Ranks:
    """Rank each query's best positive among all candidates, from a matrix of scores.

    Args:
        scores_QC: Larger is better.
        query_groups: (Q,) int64, such as the image number of each caption.
        candidate_groups: (C,) int64. A candidate is positive where the group is the same.

    Raises:
        ValueError: A score is not a number, or a query has no positive.
    """
    is_positive_QC = query_groups[:, None] == candidate_groups[None, :]
    _check(scores_QC, is_positive_QC)
    best_Q1 = scores_QC.masked_fill(~is_positive_QC, -torch.inf).amax(dim=1, keepdim=True)
    ahead_Q = (scores_QC > best_Q1).sum(dim=1)
    tied_Q = ((scores_QC == best_Q1) & ~is_positive_QC).sum(dim=1)
    return Ranks(ahead_Q, tied_Q)


def rank_embeddings(
    queries_QE: Tensor,
    candidates_CE: Tensor,
    query_groups: Tensor,
    candidate_groups: Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    block_bytes: int = BLOCK_BYTES,
) -> Ranks:
    """Rank each query's best positive by inner product, a block of queries at a time.

    The same ranks as `rank_scores` of the full matrix; memory is `block_bytes` and a few masks.

    Args:
        queries_QE: Query embeddings.
        candidates_CE: Candidate embeddings.
        query_groups: (Q,) int64.
        candidate_groups: (C,) int64.
        dtype: Of the inner products; the authors' evaluation of VSE-infinity uses float64.
        block_bytes: Bytes of the scores that are held at once.
    """
    candidates_EC = candidates_CE.to(dtype).T
    parts = [
        rank_scores(
            queries_QE[block].to(dtype) @ candidates_EC, query_groups[block], candidate_groups
        )
        for block in _blocks(len(queries_QE), len(candidates_CE) * dtype.itemsize, block_bytes)
    ]
    return Ranks(
        torch.cat([part.ahead for part in parts]), torch.cat([part.tied for part in parts])
    )


def rank_merged(
    queries_QE: Tensor,
    candidates_CE: Tensor,
    candidate_groups: Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    block_bytes: int = BLOCK_BYTES,
) -> Ranks:
    """Rank query q's own group among all groups, each standing at its best candidate's score.

    Args:
        queries_QE: Query embeddings; query q belongs to group q.
        candidates_CE: Candidate embeddings.
        candidate_groups: (C,) int64, below Q.
        dtype: Of the inner products.
        block_bytes: Bytes of the scores that are held at once.
    """
    candidates_EC, groups_Q = candidates_CE.to(dtype).T, torch.arange(len(queries_QE))
    groups_Q = groups_Q.to(queries_QE.device)
    parts = []
    for block in _blocks(len(queries_QE), len(candidates_CE) * dtype.itemsize, block_bytes):
        scores = queries_QE[block].to(dtype) @ candidates_EC
        merged = best_of_groups(scores, candidate_groups, len(queries_QE))
        parts.append(rank_scores(merged, groups_Q[block], groups_Q))
    return Ranks(
        torch.cat([part.ahead for part in parts]), torch.cat([part.tied for part in parts])
    )


def best_of_groups(scores_QC: Tensor, candidate_groups: Tensor, num_groups: int) -> Tensor:
    """Merge the candidates of each group into their best score: (Q, G).

    CLIP4Clip ranks videos against videos this way when one has several sentences (MSVD); without
    it, every sentence of another video stands in front on its own.
    """
    index_QC = candidate_groups.expand_as(scores_QC)
    worst_QG = scores_QC.new_full((len(scores_QC), num_groups), -torch.inf)
    return worst_QG.scatter_reduce(1, index_QC, scores_QC, "amax")


def _blocks(num_rows: int, row_bytes: int, block_bytes: int) -> Iterator[slice]:
    rows = max(1, block_bytes // row_bytes)
    return (slice(start, start + rows) for start in range(0, num_rows, rows))


def _check(scores_QC: Tensor, is_positive_QC: Tensor) -> None:
    if bool(scores_QC.isnan().any()):
        raise ValueError(
            "retrieval ranks: some scores are not numbers, needed finite embeddings: a NaN would "
            "count as place 1. Look for the step at which training diverged."
        )
    alone = (~is_positive_QC.any(dim=1)).nonzero().flatten()
    if len(alone):
        raise ValueError(
            f"retrieval ranks: {len(alone)} queries of this block have no candidate of their own "
            f"group (first: query {int(alone[0])}), needed at least one. "
            "Evaluate items and texts of the same split."
        )
