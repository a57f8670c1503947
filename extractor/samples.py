"""The rows of a data set as the numbered samples of a cache: views and all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cache_schema import Ragged, SplitSpec

from .augmentation import Augmentation
from .inputs.source import SampleSource
from .inputs.targets import TargetData

_AUGMENTED_SPLIT = "train"  # what is evaluated is never augmented


@dataclass(frozen=True, eq=False)
class NumberedSamples:
    """Every row of every split once, and each row of `train` `num_views` times in a run.

    Attributes:
        source: The rows.
        num_views: 1: as they are; else also `num_views - 1` augmented views of each.
        augmentation: What those change.
    """

    source: SampleSource
    num_views: int = 1
    augmentation: Augmentation = field(default_factory=Augmentation)

    @property
    def splits(self) -> tuple[SplitSpec, ...]:
        """Where each split lies in the cache."""
        specs, start = [], 0
        for name, count in self.source.splits.items():
            views = self._views(name)
            specs.append(SplitSpec(name=name, start=start, stop=start + count * views, views=views))
            start += count * views
        return tuple(specs)

    @property
    def num_samples(self) -> int:
        """Of all splits."""
        return self.splits[-1].stop

    def read(self, samples: range) -> Sequence[Mapping[str, object]]:
        """Some samples of one split by role, each with its `view`, and what that may change."""
        split, first, views = self._place(samples)
        stop = first + len(samples)
        rows = self.source.samples(split, first // views, -(-stop // views))
        changes: list[dict[str, object]] = [{"view": 0}]
        changes += [{"view": v, "augmentation": self.augmentation} for v in range(1, views)]
        numbered = [{**row, **change} for row in rows for change in changes]
        skipped = first % views
        return numbered[skipped : skipped + len(samples)]

    def ids(self, samples: range) -> np.ndarray:
        """(samples,) int64: source row of each."""
        split, first, views = self._place(samples)
        positions = (first + np.arange(len(samples))) // views
        rows: np.ndarray = self.source.sample_rows(split)[positions]
        return rows

    def views(self, samples: range) -> np.ndarray:
        """(samples,) int32: view of each."""
        _, first, views = self._place(samples)
        return ((first + np.arange(len(samples))) % views).astype(np.int32)

    def target(self, target: TargetData, samples: range) -> Ragged | np.ndarray:
        """One target of some samples of one split."""
        split, first, views = self._place(samples)
        positions = (first + np.arange(len(samples))) // views
        if target.offsets is None:
            return target.values[split][positions]
        return Ragged(target.values[split], target.offsets[split]).take(positions)

    def blocks(self, size: int) -> Iterator[range]:
        """All samples in order, at most `size` at once and never of two splits."""
        for split in self.splits:
            for start in range(split.start, split.stop, size):
                yield range(start, min(split.stop, start + size))

    def _views(self, split: str) -> int:
        return self.num_views if split == _AUGMENTED_SPLIT else 1

    def _place(self, samples: range) -> tuple[str, int, int]:
        """The split of some samples, the place of the first in it, and its views."""
        split = next(s for s in self.splits if s.start <= samples.start < s.stop)
        return split.name, samples.start - split.start, split.views
