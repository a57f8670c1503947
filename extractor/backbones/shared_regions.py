"""Regions of images that several samples are about: each file is read once.

B samples, U different files, R regions of one or of the largest, F features of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cache_schema import Ragged, RowLayout

from ..media import ImageSource, RegionRecipe, Regions, read_all
from .base import Prepared, Sample
from .errors import BackboneError
from .sharing import first_of_each

FEATURES, BOXES, FILE_NUMBER = "region_features", "region_boxes", "regions_number"


@dataclass(frozen=True, eq=False)
class SharedRegions:
    """The different files of some samples.

    Attributes:
        inputs: As a backbone's inputs: of files (features, boxes where those are read), and the
            number of the one that each sample is about; -1 where it cannot be read.
        counts: (B,) int64, regions of each sample; 0 where they cannot be read.
        failures: Position of a sample to why its regions cannot be read.
    """

    inputs: dict[str, Ragged | np.ndarray]
    counts: np.ndarray
    failures: Mapping[int, str]


@dataclass(frozen=True, eq=False)
class PaddedRegions:
    """Regions as a model takes them, on its device.

    Attributes:
        features: (B, R, F).
        boxes: (B, R, 4); None where the model does not read them.
        mask: (B, R) int64, 1 where a region is real.
        counts: (B,) int64 on the CPU, regions of each sample.
    """

    features: Tensor
    boxes: Tensor | None
    mask: Tensor
    counts: np.ndarray


def measure_regions(
    samples: Sequence[Sample], recipe: RegionRecipe
) -> tuple[np.ndarray, Mapping[int, str]]:
    """(B,) int64 regions of each sample, 0 where they cannot be read, and why not.

    Raises:
        BackboneError: A sample has no regions.
    """
    sources, places = _distinct(samples)
    found, failed = read_all(sources, recipe.count)
    counts = np.array([found.get(place, 0) for place in places], dtype=np.int64)
    return counts, {at: failed[place] for at, place in enumerate(places) if place in failed}


def read_regions(samples: Sequence[Sample], recipe: RegionRecipe) -> SharedRegions:
    """Read every file once, however many samples share it.

    Raises:
        BackboneError: A sample has no regions.
    """
    sources, places = _distinct(samples)
    found, failed = read_all(sources, recipe.read)
    there = sorted(found)
    numbers = np.full(len(sources), -1, dtype=np.int64)
    numbers[there] = np.arange(len(there))
    number_of = numbers[np.array(places, dtype=np.int64)]
    files = [found[place] for place in there]
    lengths = np.array([len(one.features) for one in files], dtype=np.int64)
    inputs: dict[str, Ragged | np.ndarray] = {
        FEATURES: _joined([one.features for one in files], lengths, recipe.width),
        FILE_NUMBER: number_of,
    }
    if recipe.has_boxes:
        inputs[BOXES] = _joined([_boxes(one) for one in files], lengths, 4)
    counts = np.zeros(len(samples), dtype=np.int64)
    counts[number_of >= 0] = lengths[number_of[number_of >= 0]]
    failures = {at: failed[place] for at, place in enumerate(places) if place in failed}
    return SharedRegions(inputs, counts, failures)


def pad_regions(prepared: Prepared, samples: np.ndarray, like: Tensor) -> PaddedRegions:
    """The regions that some samples are about, of the dtype and on the device of a weight.

    Args:
        prepared: With the inputs of `SharedRegions`.
        samples: Positions of samples whose regions could be read.
        like: The weight.
    """
    number_of = prepared.inputs[FILE_NUMBER]
    assert isinstance(number_of, np.ndarray)
    needed, of_sample = np.unique(number_of[samples], return_inverse=True)
    features = prepared.ragged(FEATURES).take(needed)
    layout = RowLayout.from_lengths(features.lengths)
    # One copy of each file goes to the device, its samples are made there.
    chosen = torch.from_numpy(of_sample).to(like.device)

    def pad(column: Ragged) -> Tensor:
        padded = layout.pad(torch.from_numpy(column.values))
        return padded.to(like.device, like.dtype, non_blocking=True)[chosen]

    has_boxes = BOXES in prepared.inputs
    return PaddedRegions(
        pad(features),
        pad(prepared.ragged(BOXES).take(needed)) if has_boxes else None,
        layout.mask().long().to(like.device)[chosen],
        features.lengths[of_sample],
    )


def regions_of(sample: Sample, position: int) -> ImageSource:
    """The file of a sample's regions.

    Raises:
        BackboneError: It has none.
    """
    regions = sample.get("regions")
    if not isinstance(regions, str | Path | bytes):
        raise BackboneError(
            f"sample {position}: regions is {type(regions).__name__}, needed the path or the bytes "
            "of an npz file. Name the column that holds regions."
        )
    return regions


def _distinct(samples: Sequence[Sample]) -> tuple[list[ImageSource], list[int]]:
    """The different files, and for each sample its place among those.

    All views of a sample have the same regions: features of a part cannot be had from a file.
    """
    sources = [regions_of(sample, at) for at, sample in enumerate(samples)]
    firsts, places = first_of_each(sources)
    return [sources[at] for at in firsts], places


def _joined(parts: Sequence[np.ndarray], lengths: np.ndarray, width: int) -> Ragged:
    values = np.concatenate([np.zeros((0, width), dtype=np.float32), *parts])
    return Ragged.from_lengths(values, lengths)


def _boxes(regions: Regions) -> np.ndarray:
    assert regions.boxes is not None
    return regions.boxes
