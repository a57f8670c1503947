"""Extractions of the reviews by a tiny BERT, and what they stored."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

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


def loud_bert(tiny_bert: Path, folder: Path) -> Path:
    """A copy of the BERT whose last layer is too large for float16."""
    loud = folder / "loud-bert"
    shutil.copytree(tiny_bert, loud)
    weights = load_file(loud / "model.safetensors")
    weights["encoder.layer.1.output.LayerNorm.bias"] += 1e5
    save_file(weights, loud / "model.safetensors", metadata={"format": "pt"})
    return loud


def all_values(path: str | Path | None) -> torch.Tensor:
    """The hidden states of all samples, one after the other."""
    cache = FeatureCache.open(str(path))
    return cache.gather(np.arange(len(cache))).streams["tokens"].values
