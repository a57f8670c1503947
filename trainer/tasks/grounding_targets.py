"""Boxes of referring expressions and the words that name them, as they are stored.

B samples, T tokens of the longest text.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cache_schema import Ragged

from ..losses import positive_map
from .base import TargetError, name_samples

if TYPE_CHECKING:
    from cache_schema import FeatureCache

TOKEN_SPANS = "token_spans"
_SIZE, _USUAL_SPANS = "size", "spans"


@dataclass(frozen=True, eq=False)
class BoxColumns:
    """The columns of a cache that grounding learns from.

    Attributes:
        cache: Holds the token spans: begin and end of each text token, in characters.
        box: x, y of the upper left corner, width and height, in pixels.
        size: Height and width of the image, in pixels.
        spans: Begin and end of the phrases that name the box; None: the whole expression does.
    """

    cache: FeatureCache
    box: Ragged
    size: Ragged
    spans: Ragged | None
    _words: dict[int, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, cache: FeatureCache, box: str, spans: str | None) -> BoxColumns:
        """Open the columns.

        Raises:
            CacheError: One of them is not there.
            TargetError: One does not hold lists of numbers, or there are no token spans.
        """
        if TOKEN_SPANS not in cache.manifest.inputs:
            raise TargetError(
                f"{cache.path}: stores the inputs {list(cache.manifest.inputs)!r}, grounding needs "
                f"{TOKEN_SPANS!r} too. Extract with a backbone for grounding, such as MDETR."
            )
        stored = {spec.name for spec in cache.manifest.targets}
        phrases = spans or (_USUAL_SPANS if _USUAL_SPANS in stored else None)
        return cls(
            cache,
            _numbers(cache, box, "four numbers: x, y, width and height in pixels"),
            _numbers(cache, _SIZE, "two numbers: height and width of the image in pixels"),
            None if phrases is None else _numbers(cache, phrases, "begin and end of each phrase"),
        )

    def check(self, samples: np.ndarray) -> None:
        """Look at what will be read.

        Raises:
            TargetError: Names the samples whose box, image size or phrases are not as needed.
        """
        for name, column, count in (("box", self.box, 4), ("size of the image", self.size, 2)):
            uneven = samples[column.lengths[samples] != count]
            if uneven.size:
                raise TargetError(
                    f"{name}: {name_samples(uneven)} with another count of numbers, needed "
                    f"{count}. Correct these rows, or leave them out of the data."
                )
        boxes = self.box.take(samples).values.reshape(-1, 4)
        sizes = self.size.take(samples).values.reshape(-1, 2)
        fits = np.isfinite(boxes).all(1) & (boxes[:, 2:] > 0).all(1) & (sizes > 0).all(1)
        if not fits.all():
            raise TargetError(
                f"box: {name_samples(samples[~fits])} with a box or an image without area. "
                "Correct these rows, or leave them out of the data."
            )
        if self.spans is not None:
            odd = samples[self.spans.lengths[samples] % 2 == 1]
            if odd.size:
                raise TargetError(
                    f"spans: {name_samples(odd)} with a begin without an end. Correct these rows."
                )
        self._find_words(samples)

    def sizes(self, samples: np.ndarray) -> Tensor:
        """(B, 2) float32 height and width in pixels."""
        return torch.from_numpy(self.size.take(samples).values.reshape(-1, 2)).float()

    def boxes(self, samples: np.ndarray) -> Tensor:
        """(B, 4) float32 centre and size, in shares of the image."""
        corners = self.box.take(samples).values.reshape(-1, 4)
        scale = self.size.take(samples).values.reshape(-1, 2)[:, ::-1]
        centres = corners[:, :2] + corners[:, 2:] / 2
        return torch.from_numpy(
            np.concatenate([centres, corners[:, 2:]], 1) / np.tile(scale, 2)
        ).float()

    def words(self, samples: np.ndarray) -> Tensor:
        """(B, T) bool: the tokens that name the box."""
        self._find_words(samples)
        marks = [self._words[sample] for sample in samples.tolist()]
        padded = np.zeros((len(marks), max(map(len, marks))), dtype=bool)
        for row, mark in zip(padded, marks, strict=True):
            row[: len(mark)] = mark
        return torch.from_numpy(padded)

    def _find_words(self, samples: np.ndarray) -> None:
        """Keep the marks of samples: reading token spans opens whole shards."""
        new = [sample for sample in np.unique(samples).tolist() if sample not in self._words]
        if not new:
            return
        for sample, flat in zip(new, self.cache.input(TOKEN_SPANS, new), strict=True):
            token_spans = flat.reshape(-1, 2)
            if self.spans is None:
                self._words[sample] = token_spans[:, 1] > token_spans[:, 0]
            else:
                self._words[sample] = _words_of(token_spans, self.spans[sample])


def _words_of(token_spans: np.ndarray, phrases: np.ndarray) -> np.ndarray:
    """(T,) bool: the tokens of the phrases of one expression."""
    token_of_char = np.full(int(token_spans.max(initial=0)), -1)
    for token, (begin, end) in enumerate(token_spans.tolist()):
        token_of_char[begin:end] = token
    pairs = [(int(begin), int(end)) for begin, end in phrases.reshape(-1, 2).tolist()]
    marks = positive_map([pairs], token_of_char.tolist(), len(token_spans))
    found: np.ndarray = marks[0].numpy()
    return found


def _numbers(cache: FeatureCache, name: str, meaning: str) -> Ragged:
    column = cache.target(name)
    if column.spec.kind != "numbers" or column.offsets is None:
        raise TargetError(
            f"target {name!r}: holds {column.spec.kind!r}, grounding needs {meaning}. "
            "Extract with a column of such lists."
        )
    return Ragged(column.values, column.offsets)
