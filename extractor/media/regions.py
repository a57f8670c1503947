"""Regions that a detector found in an image, from an .npz file of these arrays:

features   (R, F) floats, one row for each region
boxes      (R, 4) x1, y1, x2, y2: shares of the image, or pixels where there is a `size`
size       (2,)   height and width of the image in pixels

R regions, F features of one.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.lib import format as npy

from .images import ImageSource, UnreadableMediaError

_FEATURES, _BOXES, _SIZE = "features", "boxes", "size"
# How far LXMERT's authors let rounding take a share of the image beyond it.
# Source: https://github.com/airsplay/lxmert, src/tasks/vqa_data.py
_ROUNDING = 1e-5


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of one image.

    Attributes:
        features: (R, F) float32.
        boxes: (R, 4) float32, x1, y1, x2, y2 as shares of the image; None where not asked for.
    """

    features: np.ndarray
    boxes: np.ndarray | None


@dataclass(frozen=True)
class RegionRecipe:
    """What a backbone reads of each file.

    Attributes:
        width: F.
        has_boxes: Whether it reads where the regions are.
    """

    width: int
    has_boxes: bool

    def count(self, source: ImageSource) -> int:
        """R, from the features' header alone; boxes are few, and checked.

        Raises:
            UnreadableMediaError: Names the file and what is wrong with it.
        """
        with _opened(source) as archive:
            count = self._count(archive)
            if self.has_boxes:
                _boxes(archive)
            return count

    def read(self, source: ImageSource) -> Regions:
        """The arrays, checked.

        Raises:
            UnreadableMediaError: Names the file and what is wrong with it.
        """
        with _opened(source) as archive:
            self._count(archive)
            features = _array(archive, _FEATURES)
            if not np.isfinite(features).all():
                raise ValueError("features hold NaN or numbers that are too large")
            return Regions(features, _boxes(archive) if self.has_boxes else None)

    def _count(self, archive: ZipFile) -> int:
        shape, kind = _header(archive, _FEATURES)
        if len(shape) != 2 or shape[0] < 1 or shape[1] != self.width or kind != "f":
            raise ValueError(
                f"features are {_shown(shape, kind)}, needed ({_MANY}, {self.width}) floats"
            )
        if self.has_boxes:
            found, kind = _header(archive, _BOXES)
            if found != (shape[0], 4) or kind not in "fiu":
                raise ValueError(f"boxes are {_shown(found, kind)}, needed ({shape[0]}, 4) numbers")
        return shape[0]


_MANY = "at least one region"
_KINDS = {"f": "floats", "i": "integers", "u": "integers", "b": "booleans", "O": "Python objects"}


def _boxes(archive: ZipFile) -> np.ndarray:
    """(R, 4) float32 shares of the image."""
    boxes = _array(archive, _BOXES)
    if f"{_SIZE}.npy" in archive.namelist():
        shape, kind = _header(archive, _SIZE)
        if shape != (2,) or kind not in "fiu":
            raise ValueError(f"size is {_shown(shape, kind)}, needed height and width in pixels")
        size = _array(archive, _SIZE)
        if not (np.isfinite(size).all() and size.min() > 0):
            raise ValueError(f"size is {size.tolist()!r}, needed height and width in pixels")
        boxes = boxes / size[[1, 0, 1, 0]]
    lowest, highest = boxes.min(), boxes.max()
    if not (lowest >= -_ROUNDING and highest <= 1 + _ROUNDING):
        raise ValueError(
            f"boxes reach from {lowest:g} to {highest:g} of the image, needed 0 to 1; boxes in "
            "pixels need the image's height and width as the array 'size'"
        )
    if (boxes[:, :2] > boxes[:, 2:]).any():
        raise ValueError("boxes end before they begin, needed x1, y1, x2, y2")
    return boxes


def _header(archive: ZipFile, name: str) -> tuple[tuple[int, ...], str]:
    """Shape of an array and the kind of its numbers, as numpy's letter."""
    if f"{name}.npy" not in archive.namelist():
        there = [member.removesuffix(".npy") for member in archive.namelist()]
        raise ValueError(f"there is no array {name!r} in it, but {there!r}")
    with archive.open(f"{name}.npy") as member:
        # Later versions differ in names of fields only, and arrays of numbers have none.
        is_first = npy.read_magic(member) == (1, 0)
        read = npy.read_array_header_1_0 if is_first else npy.read_array_header_2_0
        shape, _, dtype = read(member)
    return shape, dtype.kind


def _array(archive: ZipFile, name: str) -> np.ndarray:
    """As float32; what is too large for it becomes infinite."""
    with archive.open(f"{name}.npy") as member, np.errstate(over="ignore"):
        array: np.ndarray = npy.read_array(member, allow_pickle=False).astype(np.float32)
    return array


def _shown(shape: tuple[int, ...], kind: str) -> str:
    return f"{shape} {_KINDS.get(kind, 'others')}"


@contextmanager
def _opened(source: ImageSource) -> Iterator[ZipFile]:
    """The file as an archive of arrays; whatever is wrong with it as one kind of error."""
    name = "regions in the data" if isinstance(source, bytes) else str(source)
    try:
        with ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source) as archive:
            yield archive
    except FileNotFoundError as error:
        raise UnreadableMediaError(f"{name}: there is no such file") from error
    except (OSError, ValueError, BadZipFile, EOFError, zlib.error, NotImplementedError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        if "not a zip file" in said:
            said = "not an npz file, as numpy.savez writes it"
        raise UnreadableMediaError(f"{name}: cannot be read ({said})") from error
