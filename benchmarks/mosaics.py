"""Referring expressions as captions for MDETR: images, texts, and the boxes of their phrases."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from extractor.backbones.mdetr import MDETRConfig
from extractor.backbones.mdetr.inputs import DetectorRecipe
from extractor.backbones.shared_images import normalised

_SIDES = {"left": "right", "right": "left"}
_JOIN = " and "


def read_rows(data: Path, split: str) -> list[dict[str, Any]]:
    """The expressions of a split, with the columns that extraction reads, and `category`."""
    rows = [json.loads(line) for line in (data / f"{split}.jsonl").read_text().splitlines()]
    return [
        {
            "text": row["expression"],
            "image": str((data / row["image"]).resolve()),
            "box": row["bbox"],
            "size": [row["height"], row["width"]],
            "category": row["category"],
        }
        for row in rows
    ]


@dataclass(frozen=True)
class Caption:
    """A text about an image.

    Attributes:
        image: Its number.
        text: One expression, or several joined.
        spans: Characters where each expression begins and ends.
        boxes: Of each expression, centre and size in shares of the image.
    """

    image: int
    text: str
    spans: tuple[tuple[int, int], ...]
    boxes: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, eq=False)
class Captions:
    """Captions about some images and, for training, about their mirror images.

    Attributes:
        images: (U, 3, H, W) normalised.
        single: One expression each, of the images as they are.
        all: The same, those of mirror images, and for every image all its expressions in one,
            which is how MDETR is pretrained.
    """

    images: Tensor
    single: list[Caption]
    all: list[Caption]

    @classmethod
    def of(cls, rows: Sequence[dict[str, Any]], config: MDETRConfig, *, mirror: bool) -> Captions:
        """Read the images of these rows; all must have one size."""
        recipe = DetectorRecipe(config.image_size, config.max_image_size)
        paths = sorted({row["image"] for row in rows})
        like = torch.zeros(1)
        images = torch.stack(
            [
                normalised(recipe.pixels({}, path), config.image_mean, config.image_std, like)
                for path in paths
            ]
        )
        single, joined = [], []
        for number, path in enumerate(paths):
            own = [row for row in rows if row["image"] == path]
            for turned in (False, True) if mirror else (False,):
                phrases = [_phrase(row, turned=turned) for row in own]
                place = number + turned * len(paths)
                single += [_caption(place, [phrase]) for phrase in phrases]
                joined += [_caption(place, phrases)] if len(phrases) > 1 else []
        if mirror:
            images = torch.cat([images, images.flip(3)])
        as_they_are = [caption for caption in single if caption.image < len(paths)]
        return cls(images, as_they_are, [*single, *joined])

    def order(self, draw: np.random.Generator) -> np.ndarray:
        """Numbers of all captions; those of one image together, which is then seen once."""
        image_of = np.array([caption.image for caption in self.all])
        keys = draw.permutation(len(self.images))[image_of]
        return np.lexsort((draw.random(len(keys)), keys))


def _phrase(row: dict[str, Any], *, turned: bool) -> tuple[str, tuple[float, ...]]:
    (left, top, width, height), (full_height, full_width) = row["box"], row["size"]
    centre = (left + width / 2) / full_width
    box = (
        1 - centre if turned else centre,
        (top + height / 2) / full_height,
        width / full_width,
        height / full_height,
    )
    if not turned:
        return row["text"], box
    return " ".join(_SIDES.get(word, word) for word in row["text"].split()), box


def _caption(image: int, phrases: Sequence[tuple[str, tuple[float, ...]]]) -> Caption:
    spans, start = [], 0
    for text, _ in phrases:
        spans.append((start, start + len(text)))
        start += len(text) + len(_JOIN)
    return Caption(
        image,
        _JOIN.join(text for text, _ in phrases),
        tuple(spans),
        tuple(box for _, box in phrases),
    )
