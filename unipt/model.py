"""A trained run with its frozen backbones, ready for new samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from cache_schema import FeatureCache, UserError, differing_fields
from trainer import (
    Encoded,
    best_matches,
    check_retrieval,
    encode_batch,
    encode_split,
    load_run,
)

from .online import FrozenSide

if TYPE_CHECKING:
    from torch import Tensor

    from trainer import Match, TrainedRun

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Side = Literal["items", "texts"]
_SIDES: tuple[Side, Side] = ("items", "texts")
BackbonePlace = str | Path | Sequence[str | Path] | None
"""Where a run's frozen backbones lie now: one place for all, or those of items and of texts."""


class Model:
    """A trained run and the frozen backbones that it reads.

    Attributes:
        run: The trained side network, with its settings and task.
    """

    def __init__(
        self,
        run: str | Path | TrainedRun,
        *,
        device: DeviceName = "auto",
        backbone: BackbonePlace = None,
    ) -> None:
        self.run: TrainedRun = load_run(run, device) if isinstance(run, str | Path) else run
        self._places = places_of(self.run, backbone)
        self._sides: dict[int, FrozenSide] = {}
        self._encoded: dict[tuple[str, str, Side], Encoded] = {}
        if len(self.run.record.caches) == 1:
            self.side(0)

    @property
    def backbone(self) -> Any:
        """The frozen backbone; of a run that reads pairs, that of the items."""
        return self.side(0).backbone

    def side(self, number: int) -> FrozenSide:
        """The backbone of one of the run's caches, loaded and checked when first asked for.

        Raises:
            FingerprintMismatchError: It is not the one the run was trained with.
        """
        if number not in self._sides:
            self._sides[number] = FrozenSide(self.run, number, self._places[number])
        return self._sides[number]

    def predict(self, samples: Sequence[Any], *, batch_size: int = 32) -> list[dict[str, Any]]:
        """One mapping per sample: `label` and `score` for classification, `value` for regression.

        Args:
            samples: What the backbone reads: texts (where words are aligned also lists of their
                words) or pairs of texts; paths, bytes or PIL images; paths of videos or lists of
                frames; or mappings from role to these, in which the `regions` of an image are the
                path or the bytes of an npz file.
            batch_size: Samples per forward pass.

        Returns:
            In the order of `samples`. A file that cannot be read has None in every column and says
            why in `error`.

        Raises:
            UserError: A sample is of the wrong kind, a text is empty, or the run finds things.
        """
        refuse_retrieval(self.run)
        given = self._given(samples, self.side(0), batch_size)
        rows = self.predict_samples(iter(given), batch_size=batch_size)
        return [{k: v for k, v in row.items() if k != "probabilities"} for row in rows]

    def predict_samples(
        self, samples: Iterable[Mapping[str, Any]], *, batch_size: int = 32
    ) -> Iterator[dict[str, Any]]:
        """The prediction of each sample (by role) in order, with all columns.

        Where more than texts is read, `error` says why a file could not be, and its columns are
        None.

        Raises:
            UserError: The run finds things instead.
        """
        refuse_retrieval(self.run)
        frozen = self.side(0)
        names: list[str] = []
        waiting: list[dict[str, Any]] = []  # failures before the columns are known
        for window in frozen.windows(samples, batch_size):
            rows: list[dict[str, Any]] = [{} for _ in range(window.num_samples)]
            for part in self.run.predict(window.batches):
                names = list(part.columns)
                places = part.sample_ids.tolist()
                for place, *values in zip(places, *part.columns.values(), strict=True):
                    rows[place] = dict(zip(names, values, strict=True))
            if frozen.reads != ("text",):
                for place, row in enumerate(rows):
                    row["error"] = window.failures.get(place)
            waiting += rows
            if names:
                yield from (dict.fromkeys(names) | row for row in waiting)
                waiting = []
        yield from waiting

    def encode(self, samples: Sequence[Any], side: Side, *, batch_size: int = 32) -> Tensor:
        """(n, E) float32 unit vectors of new items or texts in the space of a retrieval run.

        Args:
            samples: As in `predict`, of that side.
            side: `items` (images or videos) or `texts`.
            batch_size: Samples per forward pass.

        Raises:
            UserError: The run is not of retrieval, or a sample cannot be read.
        """
        check_retrieval(self.run)
        frozen = self.side(min(_SIDES.index(side), len(self.run.record.caches) - 1))
        given = self._given(samples, frozen, batch_size)
        vectors = []
        for window in frozen.windows(given, batch_size):
            for reason in window.failures.values():
                raise UserError(f"{side}: {reason}.")
            parts = [
                (batch.sample_ids, encode_batch(self.run, batch, side)) for batch in window.batches
            ]
            order = torch.cat([places for places, _ in parts]).argsort().to(parts[0][1].device)
            vectors.append(torch.cat([found for _, found in parts])[order])
        return torch.cat(vectors)

    def search(
        self,
        query: Any,
        *,
        items: str | Path | FeatureCache | None = None,
        texts: str | Path | FeatureCache | None = None,
        split: str = "test",
        top: int = 5,
    ) -> list[Match]:
        """What a text finds among cached items, or an image or video among cached texts.

        The cache is encoded when it is searched first; later queries only encode themselves.

        Args:
            query: A text to find `items`, or an image or video to find `texts`.
            items: Cache of images or videos.
            texts: Cache of texts.
            split: Where to search.
            top: How many matches, best first.

        Raises:
            UserError: Not one cache is given, it was made from something else than the run's, or
                the run is not of retrieval.
        """
        if (items is None) == (texts is None):
            raise UserError(
                "search: needed one cache, items=... for a text or texts=... for an image."
            )
        found: Side = "items" if items is not None else "texts"
        asks: Side = "texts" if items is not None else "items"
        candidates = self._searched(items if items is not None else texts, split, found)
        return next(best_matches(self.encode([query], asks), candidates, top))

    def side_of(self, cache: FeatureCache) -> Side:
        """Whether a cache holds the items or the texts of a retrieval run.

        Raises:
            UserError: Neither; names what differs from the items.
        """
        check_retrieval(self.run)
        given = dict(cache.manifest.identity.features)
        for side, excerpt in zip(_SIDES, self.run.record.caches, strict=False):
            if not differing_fields(excerpt.identity.features, given):
                return side
        self.run.check_features({**given}, str(cache.path))
        raise AssertionError("features that differ from those of the items are refused")

    def _given(
        self, samples: Sequence[Any], frozen: FrozenSide, batch_size: int
    ) -> list[dict[str, Any]]:
        """Samples by role, of a sequence of them.

        Raises:
            UserError: It is no sequence of samples, or one of them is of the wrong kind.
        """
        if isinstance(samples, str | bytes | Path | Mapping):
            raise UserError(f"samples: found {samples!r}, needed a list of samples: [{samples!r}].")
        if batch_size < 1:
            raise UserError(f"batch_size: found {batch_size}, needed 1 or more.")
        return frozen.samples(samples)

    def _searched(self, cache: Any, split: str, side: Side) -> Encoded:
        opened = cache if isinstance(cache, FeatureCache) else FeatureCache.open(cache)
        known = (opened.fingerprint, split, side)
        if known not in self._encoded:
            self._encoded[known] = encode_split(self.run, opened, split, side)
        return self._encoded[known]


def places_of(run: TrainedRun, backbone: BackbonePlace) -> list[str | Path | None]:
    """Where the backbone of each of a run's caches lies; None for where it was.

    Raises:
        UserError: More or fewer places than the run has backbones.
    """
    num_sides = len(run.record.caches)
    if backbone is None or isinstance(backbone, str | Path):
        return [backbone] * num_sides
    if len(backbone) == 1:
        return [*backbone] * num_sides
    if len(backbone) != num_sides:
        needed = "one for both sides, or two: of items, then of texts" if num_sides > 1 else "one"
        raise UserError(f"--backbone: found {len(backbone)}, {run.path} needs {needed}.")
    return [*backbone]


def refuse_retrieval(run: TrainedRun) -> None:
    """Predictions of new samples have no meaning for a run that finds things.

    Raises:
        UserError: Names what to do instead.
    """
    if run.config.task.name == "retrieval":
        raise UserError(
            f"{run.path}: is a run of retrieval, which searches a cache. Name the cache: "
            "unipt predict --run RUN --cache CACHE SAMPLE; in Python: search(SAMPLE, items=CACHE)."
        )
