"""Photos in the cells of a grid, and what is said of them: as captions for MDETR, and rearranged.

Every photo lies in a cell of its own, and two of one class stand in different columns.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from extractor.backbones.mdetr import MDETRConfig
from extractor.backbones.mdetr.inputs import DetectorRecipe
from extractor.backbones.shared_images import normalised

GRID = 3  # cells along each side
_SIDES = ("left", "right")
_JOIN = " and "

Row = dict[str, Any]


def read_rows(data: Path, split: str) -> list[Row]:
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


def of_images(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows of each image, images by path."""
    in_order = sorted(rows, key=lambda row: row["image"])
    return [list(own) for _, own in groupby(in_order, key=lambda row: row["image"])]


def with_rearranged(rows: Sequence[Row], copies: int, folder: Path) -> list[Row]:
    """These rows and, so many times for every image, those of its cells in another arrangement.

    The columns of cells change places, and so do the cells of each column; half of the new images
    are mirrored. Images are written to `folder`.
    """
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    found = []
    for number, own in enumerate(of_images(rows)):
        found += own
        pixels = np.array(Image.open(own[0]["image"]).convert("RGB"))
        for copy in range(copies):
            file = folder / f"{number}-{copy}.png"
            boxes = [row["box"] for row in own]
            moved_pixels, moved_boxes = _rearranged(pixels, boxes, draw)
            Image.fromarray(moved_pixels).save(file)
            moved = [
                {**row, "image": str(file), "box": box}
                for row, box in zip(own, moved_boxes, strict=True)
            ]
            found += [{**row, "text": _text(row, moved)} for row in moved]
    return found


def _rearranged(
    pixels: np.ndarray, boxes: Sequence[Sequence[int]], draw: np.random.Generator
) -> tuple[np.ndarray, list[list[int]]]:
    """Pixels (H, W, 3) and boxes (x, y, width, height) where their cells are put."""
    height, width = pixels.shape[0] // GRID, pixels.shape[1] // GRID
    numbers = np.arange(GRID * GRID).reshape(GRID, GRID)
    columns = [draw.permutation(numbers[:, column]) for column in draw.permutation(GRID)]
    cells = np.stack(columns, axis=1)
    parts = (
        pixels.reshape(GRID, height, GRID, width, 3).swapaxes(1, 2).reshape(-1, height, width, 3)
    )
    moved = parts[cells].swapaxes(1, 2).reshape(pixels.shape)
    places = []
    for x, y, box_width, box_height in boxes:
        row, column = int((y + box_height / 2) // height), int((x + box_width / 2) // width)
        new_row, new_column = (int(at[0]) for at in np.nonzero(cells == row * GRID + column))
        x, y = x + (new_column - column) * width, y + (new_row - row) * height
        places.append([x, y, box_width, box_height])
    if draw.random() < 0.5:
        return moved, places
    turned = [[pixels.shape[1] - x - across, y, across, down] for x, y, across, down in places]
    return np.ascontiguousarray(moved[:, ::-1]), turned


def _text(row: Row, scene: Sequence[Row]) -> str:
    """What is said of a row's photo, with the side on which it stands now."""
    other = [one for one in scene if one["category"] == row["category"] and one is not row]
    if not other:
        return str(row["text"])
    side = _SIDES[row["box"][0] > other[0]["box"][0]]
    return " ".join(side if word in _SIDES else word for word in row["text"].split())


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
    """Images and what is said of them.

    Attributes:
        images: (U, 3, H, W) normalised.
        single: One expression each.
        all: The same and, for every image, all its expressions in one, which is how MDETR is
            pretrained.
    """

    images: Tensor
    single: list[Caption]
    all: list[Caption]

    @classmethod
    def of(cls, rows: Sequence[Row], config: MDETRConfig) -> Captions:
        """Read the images of these rows; all must have one size."""
        recipe = DetectorRecipe(config.image_size, config.max_image_size)
        scenes = of_images(rows)
        like = torch.zeros(1)
        images = [
            normalised(
                recipe.pixels({}, own[0]["image"]), config.image_mean, config.image_std, like
            )
            for own in scenes
        ]
        single = [_caption(number, [row]) for number, own in enumerate(scenes) for row in own]
        joined = [_caption(number, own) for number, own in enumerate(scenes) if len(own) > 1]
        return cls(torch.stack(images), single, [*single, *joined])

    def order(self, draw: np.random.Generator) -> np.ndarray:
        """Numbers of all captions; those of one image together, which is then seen once."""
        image_of = np.array([caption.image for caption in self.all])
        keys = draw.permutation(len(self.images))[image_of]
        return np.lexsort((draw.random(len(keys)), keys))


def _caption(image: int, rows: Sequence[Row]) -> Caption:
    spans, start = [], 0
    for row in rows:
        spans.append((start, start + len(row["text"])))
        start += len(row["text"]) + len(_JOIN)
    text = _JOIN.join(row["text"] for row in rows)
    return Caption(image, text, tuple(spans), tuple(_shares(row) for row in rows))


def _shares(row: Row) -> tuple[float, ...]:
    """Centre and size of the box, in shares of the image."""
    (left, top, width, height), (full_height, full_width) = row["box"], row["size"]
    return (
        (left + width / 2) / full_width,
        (top + height / 2) / full_height,
        width / full_width,
        height / full_height,
    )
