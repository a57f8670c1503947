"""Extractions of the reviews by a tiny BERT, and what they stored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cache_schema import FeatureCache
from extractor import ExtractConfig


def reviews_config(tiny_bert: Path, reviews_csv: Path, folder: Path) -> ExtractConfig:
    """48 reviews in about a dozen shards."""
    return ExtractConfig(
        backbone=str(tiny_bert),
        data=(str(reviews_csv),),
        targets=("label",),
        cache=str(folder / "cache"),
        encoding="float32",
        device="cpu",
        batch_size=3,
        shard_bytes=8192,
    )


def all_values(path: str | Path | None) -> torch.Tensor:
    """The hidden states of all samples, one after the other."""
    cache = FeatureCache.open(str(path))
    return cache.gather(np.arange(len(cache))).streams["tokens"].values
