"""A retrieval run used on caches: embeddings, and the best matches of each query.

Q queries, C candidates, K matches of each query, E width of the common space.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from cache_schema import (
    FeatureBatch,
    FeatureCache,
    Progress,
    SilentProgress,
)

from .device import autocast
from .errors import RunFolderError
from .loader import BatchLoader
from .predict import TrainedRun
from .tasks import RetrievalTask
from .tasks.two_sides import TwoSides

Side = Literal["items", "texts"]
_SIDES: tuple[Side, Side] = ("items", "texts")
_BLOCK_BYTES = 64 * 2**20  # scores held at once


@dataclass(frozen=True, eq=False)
class Encoded:
    """Samples of one side of a split in the common space.

    Attributes:
        names: (n,) an item's key; a text's key and its number among the texts of that key
            (`dog.jpg#2`, from 0); the sample's number where the cache has no key.
        samples: (n,) int64 numbers in the cache.
        vectors: (n, E) float32 on the run's device, length 1.
    """

    names: list[str]
    samples: np.ndarray
    vectors: Tensor


@dataclass(frozen=True)
class Match:
    """One thing found.

    Attributes:
        name: As in `Encoded.names`.
        sample: Its number in the cache.
        score: Cosine with the query.
    """

    name: str
    sample: int
    score: float


def encode_batch(run: TrainedRun, batch: FeatureBatch, side: Side) -> Tensor:
    """(B, E) float32 unit vectors of a batch of one side, on the run's device.

    Raises:
        RunFolderError: The run is not of retrieval.
    """
    check_retrieval(run)
    encoder = getattr(cast(TwoSides, run.model), side)
    placed = batch.to(run.device, dtype=run.dtype, non_blocking=True)
    with torch.no_grad(), autocast(run.device, run.dtype):
        vectors: Tensor = encoder(placed)
    return vectors.float()


def encode_split(
    run: TrainedRun,
    cache: FeatureCache,
    split: str,
    side: Side,
    progress: Progress | None = None,
) -> Encoded:
    """All finished samples of one side of a split.

    Raises:
        FingerprintMismatchError: The cache was made from something else than the run's.
        CacheError: There is no such split.
        RunFolderError: The run is not of retrieval.
    """
    task = check_retrieval(run)
    features: dict[str, object] = {**cache.manifest.identity.features}
    number = min(_SIDES.index(side), len(run.record.caches) - 1)
    run.check_features(features, str(cache.path), number)
    samples = cache.split(split)
    loader = BatchLoader(cache, lambda _: {}, device=run.device, dtype=run.dtype)
    meter = (progress or SilentProgress()).meter(f"{side} of {split}", len(samples), side)
    parts = []
    with meter as shown, loader.batches(samples, run.config.eval_batch_size) as batches:
        for batch in batches:
            parts.append(encode_batch(run, batch.sides[0], side))
            shown.advance(batch.num_samples)
    return Encoded(_names(cache, task.key, samples, side), samples, torch.cat(parts))


def best_matches(queries_QE: Tensor, candidates: Encoded, top: int) -> Iterator[list[Match]]:
    """The best candidates of each query, best first, a block of queries at a time.

    Args:
        queries_QE: Unit vectors.
        candidates: At least one; fewer than `top` give fewer matches.
        top: K.
    """
    candidates_EC = candidates.vectors.T.to(queries_QE.device)
    top = min(top, candidates_EC.shape[1])
    rows = max(1, _BLOCK_BYTES // (4 * candidates_EC.shape[1]))
    for start in range(0, len(queries_QE), rows):
        block_bE = queries_QE[start : start + rows]
        scores_bK, places_bK = (block_bE @ candidates_EC).topk(top, dim=1)
        for scores, places in zip(scores_bK.tolist(), places_bK.tolist(), strict=True):
            yield [
                Match(candidates.names[place], int(candidates.samples[place]), score)
                for place, score in zip(places, scores, strict=True)
            ]


def rank_both_ways(items: Encoded, texts: Encoded, top: int) -> Iterator[dict[str, object]]:
    """One row for every text and then for every item: what it finds on the other side.

    Yields:
        `direction`, `query` (a name), `found` (names, best first) and `scores` (cosines).
    """
    for direction, queries, candidates in (
        ("text_to_item", texts, items),
        ("item_to_text", items, texts),
    ):
        matches = best_matches(queries.vectors, candidates, top)
        for name, found in zip(queries.names, matches, strict=True):
            yield {
                "direction": direction,
                "query": name,
                "found": [match.name for match in found],
                "scores": [match.score for match in found],
            }


def check_retrieval(run: TrainedRun) -> RetrievalTask:
    """The task of a run that finds things.

    Raises:
        RunFolderError: The run does something else.
    """
    if not isinstance(run.task, RetrievalTask):
        raise RunFolderError(
            f"{run.path}: is a run of {run.config.task.name}, needed one of retrieval. "
            "Train one with --task retrieval."
        )
    return run.task


def _names(cache: FeatureCache, key: str | None, samples: np.ndarray, side: Side) -> list[str]:
    kinds = {spec.name: spec.kind for spec in cache.manifest.targets}
    if key is None or kinds.get(key) != "string":
        return [str(sample) for sample in samples.tolist()]
    keys = cache.target(key).strings(samples)
    return keys if side == "items" else _numbered(keys)


def _numbered(keys: Sequence[str]) -> list[str]:
    """`a, b, a` as `a#0, b#0, a#1`."""
    seen: Counter[str] = Counter()
    names = []
    for key in keys:
        names.append(f"{key}#{seen[key]}")
        seen[key] += 1
    return names
