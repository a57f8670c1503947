"""Two caches whose items and texts a small network can bring together in a few epochs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_caches import make_manifest, states_of, write_cache

from cache_schema import FeatureCache, Ragged, SplitSpec, TargetSpec
from trainer import FitConfig, with_overrides

ITEMS = {"train": 24, "validation": 8, "test": 8}
TEXTS_PER_ITEM = 3


@dataclass(frozen=True)
class Pair:
    """Both caches, and the item (by its place in its split) of every text of a split."""

    items: FeatureCache
    texts: FeatureCache

    @property
    def both(self) -> tuple[FeatureCache, FeatureCache]:
        """As `fit` takes them."""
        return self.items, self.texts


def strings(values: list[str]) -> Ragged:
    """A column of the kind `string`."""
    return Ragged.from_rows([list(value.encode()) for value in values], np.uint8)


def side_cache(
    path: Path,
    keys: dict[str, list[str]],
    meanings: dict[str, np.ndarray],
    *,
    width: int,
    views: int = 1,
    noise: float = 0.3,
    seed: int = 0,
    unreadable: tuple[int, ...] = (),
) -> FeatureCache:
    """One side: each sample's rows are a fixed random map of what it means, plus noise.

    Args:
        path: Where to.
        keys: Split to the key of each of its rows.
        meanings: Split to (rows, 6).
        width: Of the hidden states.
        views: Of the rows of `train`; view v has v more in feature 0 of layer 0.
        noise: Standard deviation.
        seed: Of noise, lengths and map.
        unreadable: Samples without hidden states.
    """
    counts = {name: views if name == "train" else 1 for name in keys}
    names = [key for split, rows in keys.items() for key in rows for _ in range(counts[split])]
    meaning = np.concatenate([np.repeat(m, counts[split], 0) for split, m in meanings.items()])
    view = np.concatenate([np.tile(np.arange(counts[s]), len(rows)) for s, rows in keys.items()])
    lengths = np.random.default_rng(seed).integers(1, 5, len(names))
    lengths[list(unreadable)] = 0
    stops = np.cumsum([len(rows) * counts[split] for split, rows in keys.items()]).tolist()
    manifest = make_manifest(
        lengths,
        width=width,
        samples_per_shard=20,
        targets=(TargetSpec(name="image_id", kind="string"),),
        splits=tuple(
            SplitSpec(
                name=split,
                start=stop - len(keys[split]) * counts[split],
                stop=stop,
                views=counts[split],
            )
            for split, stop in zip(keys, stops, strict=True)
        ),
        seed=seed,
    )
    mix = torch.randn(6, width, generator=torch.Generator().manual_seed(100 + seed))
    rows = torch.from_numpy(np.repeat(meaning, lengths, axis=0)).float() @ mix
    states = states_of(lengths, 3, width, seed=seed) * noise + rows[:, None]
    states[:, 0, 0] += torch.from_numpy(np.repeat(view, lengths)).float()
    write_cache(path, manifest, states, lengths, {"image_id": strings(names)})
    return FeatureCache.open(path)


def paired_caches(
    folder: Path,
    *,
    items: dict[str, int] | None = None,
    texts_per_item: int = TEXTS_PER_ITEM,
    **options: Any,
) -> Pair:
    """Items of width 8 and shuffled texts of width 12, with `texts_per_item` texts each."""
    generator = np.random.default_rng(5)
    sizes = items or ITEMS
    meanings = {split: generator.normal(size=(count, 6)) for split, count in sizes.items()}
    keys = {split: [f"{split}-{i}.jpg" for i in range(count)] for split, count in sizes.items()}
    places = {
        split: generator.permutation(np.repeat(np.arange(count), texts_per_item))
        for split, count in sizes.items()
    }
    return Pair(
        side_cache(folder / "items", keys, meanings, width=8, seed=1, **options),
        side_cache(
            folder / "texts",
            {split: [keys[split][i] for i in chosen] for split, chosen in places.items()},
            {split: meanings[split][chosen] for split, chosen in places.items()},
            width=12,
            seed=2,
        ),
    )


def retrieval_settings(*overrides: str) -> FitConfig:
    """Quick settings on the CPU in float32."""
    config = FitConfig.model_validate(
        {
            "task": {"name": "retrieval", "width": 8},
            "optimizer": {"learning_rates": [0.01]},
            "epochs": 4,
            "batch_size": 12,
            "device": "cpu",
            "precision": "float32",
        }
    )
    return with_overrides(config, overrides)
