"""Two caches read as one: items (images or videos) and the texts that belong to them.

B texts of a batch, I different items of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from .batch import FeatureBatch
from .cache import FeatureCache
from .errors import CacheError

_SHOWN_KEYS = 3  # keys that an error names


@dataclass(frozen=True, eq=False)
class PairedBatch:
    """Some texts, and each of their items once.

    Attributes:
        items: I different items, in the order of their sample numbers.
        texts: B texts.
        item_of_text: (B,) int64, which of `items` each text belongs to.
        targets: Target name to a tensor whose first axis is B.
    """

    items: FeatureBatch
    texts: FeatureBatch
    item_of_text: Tensor
    targets: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def num_samples(self) -> int:
        """B."""
        return self.texts.num_samples

    @property
    def sample_ids(self) -> Tensor:
        """(B,) int64 positions of the texts in their cache."""
        return self.texts.sample_ids

    @property
    def sides(self) -> tuple[FeatureBatch, ...]:
        """The batches of single caches that it is made of: items, then texts."""
        return (self.items, self.texts)

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor in it."""
        yield self.item_of_text
        yield from self.targets.values()
        for side in self.sides:
            yield from side.tensors()

    def to(
        self,
        device: torch.device | str,
        *,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> PairedBatch:
        """The same batch on another device; hidden states are decoded and cast after the copy."""
        return PairedBatch(
            self.items.to(device, dtype=dtype, non_blocking=non_blocking),
            self.texts.to(device, dtype=dtype, non_blocking=non_blocking),
            self.item_of_text.to(device, non_blocking=non_blocking),
            {k: t.to(device, non_blocking=non_blocking) for k, t in self.targets.items()},
        )


class PairedCache:
    """A cache of items and a cache of texts, joined by a key that both have. Use `join`.

    A sample is a pair of numbers: an item in its cache and a text in its own. Any number of
    texts may share an item.

    Attributes:
        items: Images or videos, each once.
        texts: Each belongs to one item of the split of the same name.
        key: The target of both that holds the item's key; None where one cache holds both sides
            and each sample is its own pair.
        left_out: Split to the number of texts without hidden states of their item.
    """

    def __init__(
        self,
        items: FeatureCache,
        texts: FeatureCache,
        key: str | None,
        pairs: Mapping[str, np.ndarray],
        left_out: Mapping[str, int],
    ) -> None:
        self.items = items
        self.texts = texts
        self.key = key
        self.left_out = left_out
        self._pairs = pairs

    @classmethod
    def join(cls, items: FeatureCache, texts: FeatureCache, key: str | None = None) -> PairedCache:
        """Find the item of every text, split by split.

        Args:
            items: Its keys are all different within a split; not so where it is `texts` itself,
                a cache with streams of both sides: then the first sample of a key is the item.
            texts: Its keys say which item each text belongs to.
            key: A target of the kind `string` in both; None to take the only one.

        Raises:
            CacheError: There is no such key or no common split, an item has the key of another,
                or a text has no item.
        """
        is_one = items is texts
        chosen = _choose_key(items, texts, key)
        names = [name for name in texts.split_names if name in items.split_names]
        if not names:
            raise CacheError(
                f"{texts.path}: has the splits {texts.split_names!r}, {items.path} has "
                f"{items.split_names!r}; needed a name that both have. Extract with "
                "`SPLIT=PATH` as data to name them alike."
            )
        pairs, left_out = {}, {}
        for name in names:
            if chosen is None:
                same = texts.split(name)
                pairs[name], left_out[name] = np.stack([same, same], axis=1), 0
                continue
            places = _places_of_keys(items, chosen, name, unique=not is_one)
            pairs[name], left_out[name] = _join_split(items, texts, chosen, name, places)
        return cls(items, texts, chosen, pairs, left_out)

    @property
    def path(self) -> str:
        """Where both lie, as they were opened."""
        return (
            self.items.path
            if self.items is self.texts
            else f"{self.items.path} and {self.texts.path}"
        )

    @property
    def fingerprint(self) -> str:
        """Of both, as `items+texts`; of the one cache that holds both."""
        return "+".join(dict.fromkeys(side.fingerprint for side in self.sides))

    @property
    def sides(self) -> tuple[FeatureCache, ...]:
        """The caches that are read: items, then texts."""
        return (self.items, self.texts)

    @property
    def split_names(self) -> list[str]:
        """Names of the splits that both have, in the order of the texts."""
        return [*self._pairs]

    def split(self, name: str) -> np.ndarray:
        """Finished pairs of a split, (n, 2) int64: item, text; texts of an item side by side.

        Each text as it is, with its item as it is; views follow them as in `FeatureCache.split`.

        Raises:
            CacheError: There is no such split, or none of its pairs is finished.
        """
        if name not in self._pairs:
            raise CacheError(
                f"{self.path}: split {name!r}: not in both caches, there are {self.split_names!r}."
            )
        if len(self._pairs[name]) == 0:
            raise CacheError(f"{self.path}: split {name!r} has no finished pair yet.")
        return self._pairs[name]

    def gather(
        self,
        samples: Sequence[Sequence[int]] | np.ndarray,
        *,
        pin_memory: bool = False,
        decode: bool = True,
    ) -> PairedBatch:
        """Hidden states of any pairs, each different item read once.

        Args:
            samples: (B, 2) item and text numbers.
            pin_memory: As in `FeatureCache.gather`.
            decode: As in `FeatureCache.gather`.
        """
        pairs = np.asarray(samples, dtype=np.int64)
        items, item_of_text = np.unique(pairs[:, 0], return_inverse=True)
        return PairedBatch(
            self.items.gather(items, pin_memory=pin_memory, decode=decode),
            self.texts.gather(pairs[:, 1], pin_memory=pin_memory, decode=decode),
            torch.from_numpy(item_of_text),
        )


def _choose_key(items: FeatureCache, texts: FeatureCache, key: str | None) -> str | None:
    """The target that joins them; None where each sample of one cache is its own pair."""
    named = [
        {spec.name for spec in cache.manifest.targets if spec.kind == "string"}
        for cache in (items, texts)
    ]
    shared = sorted(named[0] & named[1])
    if key is None and items is texts:
        return None
    if (key in shared) if key is not None else len(shared) == 1:
        return key or shared[0]
    wanted = "exactly one key column" if key is None else f"the key column {key!r}"
    raise CacheError(
        f"{items.path} and {texts.path}: needed {wanted} in both, found {sorted(named[0])!r} and "
        f"{sorted(named[1])!r}. Extract both with --key COLUMN, and choose it with task.key if "
        "there are several."
    )


def _places_of_keys(items: FeatureCache, key: str, split: str, *, unique: bool) -> dict[str, int]:
    """Key to its item's sample, also where the item could not be read."""
    spec = items.manifest.split(split)
    samples = np.arange(spec.start, spec.stop, spec.views)
    places: dict[str, int] = {}
    for name, sample in zip(items.target(key).strings(samples), samples.tolist(), strict=True):
        # An empty key is a missing one.
        if name and unique and name in places:
            raise CacheError(
                f"{items.path}: samples {places[name]} and {sample} of split {split!r} both have "
                f"the {key} {name!r}, but items need different ones. Give the cache of the items "
                "first and that of their texts second."
            )
        if name:
            places.setdefault(name, sample)
    return places


def _join_split(
    items: FeatureCache, texts: FeatureCache, key: str, split: str, places: Mapping[str, int]
) -> tuple[np.ndarray, int]:
    """(n, 2) pairs sorted by item, and how many texts have an item without hidden states."""
    samples = texts.split(split)
    names = texts.target(key).strings(samples)
    found = np.array([places.get(name, -1) for name in names], dtype=np.int64)
    missing = [name for name, item in zip(names, found.tolist(), strict=True) if item < 0]
    if missing and items.is_complete:
        shown = ", ".join(map(repr, list(dict.fromkeys(missing))[:_SHOWN_KEYS]))
        raise CacheError(
            f"{texts.path}: {len(missing):,} of {len(names):,} texts of split {split!r} have no "
            f"item in {items.path}: {key} {shown}. Extract these items as well, or leave their "
            "texts out of the data."
        )
    finished = np.zeros(items.num_samples + 1, bool)  # the last one stands for -1
    if places:
        finished[items.split(split)] = True
    is_whole = finished[found]
    pairs = np.stack([found, samples], axis=1)[is_whole]
    return pairs[np.argsort(pairs[:, 0], kind="stable")], int((~is_whole).sum())
