"""Images that several samples are about: each is read once.

B samples, U different images, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cache_schema import Ragged

from ..media import ImageSource, image_size, read_all
from .base import Sample
from .images import image_of
from .sharing import first_of_each

PIXELS, PIXEL_SIZES, IMAGE_NUMBER = "pixels", "pixel_sizes", "image_number"


@dataclass(frozen=True, eq=False)
class SharedImages:
    """The different images of some samples.

    Attributes:
        pixels: (3, H, W) uint8 of each image that could be read.
        number_of: (B,) int64, the image that each sample is about; -1 where it cannot be read.
        failures: Position of a sample to why its image cannot be read.
    """

    pixels: list[np.ndarray]
    number_of: np.ndarray
    failures: Mapping[int, str]

    @property
    def inputs(self) -> dict[str, Ragged | np.ndarray]:
        """As a backbone's inputs: of images, not of samples."""
        flat = [image.reshape(-1) for image in self.pixels]
        sizes = [image.shape[1:] for image in self.pixels]
        return {
            PIXELS: Ragged.from_rows(flat, np.uint8),
            PIXEL_SIZES: np.array(sizes, dtype=np.int64).reshape(-1, 2),
            IMAGE_NUMBER: self.number_of,
        }


def read_shared(
    samples: Sequence[Sample], make: Callable[[Sample, ImageSource], np.ndarray]
) -> SharedImages:
    """Read every image once, however many samples share it.

    Args:
        samples: With an `image`; those with the same image in the same view share it.
        make: The pixels of a sample's image; may raise UnreadableMediaError.

    Raises:
        BackboneError: A sample has no image.
    """
    first, places = _distinct(samples)
    found, failed = read_all(first, lambda at: make(samples[at], image_of(samples[at], at)))
    numbers = np.full(len(first), -1, dtype=np.int64)
    numbers[sorted(found)] = np.arange(len(found))
    number_of = numbers[places] if len(places) else np.zeros(0, dtype=np.int64)
    failures = {at: failed[place] for at, place in enumerate(places) if place in failed}
    return SharedImages([found[place] for place in sorted(found)], number_of, failures)


def measure_shared(
    samples: Sequence[Sample],
) -> tuple[Mapping[int, tuple[int, int]], Mapping[int, str]]:
    """Position of a sample to its image's height and width, or to why it cannot be read.

    Raises:
        BackboneError: A sample has no image.
    """
    first, places = _distinct(samples)
    found, failed = read_all(first, lambda at: image_size(image_of(samples[at], at)))
    sizes = {at: found[place] for at, place in enumerate(places) if place in found}
    return sizes, {at: failed[place] for at, place in enumerate(places) if place in failed}


def images_of(
    inputs: Mapping[str, Ragged | np.ndarray], samples: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray]:
    """The images that some samples are about, and which of them each one is about.

    Args:
        inputs: With those of `SharedImages.inputs`.
        samples: Positions of samples whose images could be read.
    """
    pixels, sizes, number_of = inputs[PIXELS], inputs[PIXEL_SIZES], inputs[IMAGE_NUMBER]
    assert isinstance(pixels, Ragged)
    assert isinstance(sizes, np.ndarray)
    assert isinstance(number_of, np.ndarray)
    needed, of_sample = np.unique(number_of[samples], return_inverse=True)
    return [pixels[image].reshape(3, *sizes[image]) for image in needed.tolist()], of_sample


def _distinct(samples: Sequence[Sample]) -> tuple[list[int], list[int]]:
    """The first sample of every different image, and for each sample its place among those."""
    views = [sample.get("view", 0) for sample in samples]
    return first_of_each(
        (image_of(sample, at), view, sample.get("id") if view else None)
        for at, (sample, view) in enumerate(zip(samples, views, strict=True))
    )


def normalised(
    pixels_3HW: np.ndarray,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    like: Tensor,
) -> Tensor:
    """uint8 pixels as a network's numbers, of the dtype and on the device of one of its weights."""
    pixels = torch.from_numpy(pixels_3HW).to(like.device, non_blocking=True).float() / 255
    centre, spread = (
        torch.tensor(three, device=like.device).view(3, 1, 1) for three in (mean, std)
    )
    return ((pixels - centre) / spread).to(like.dtype)


def normalised_images(
    inputs: Mapping[str, Ragged | np.ndarray],
    samples: np.ndarray,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    like: Tensor,
) -> tuple[list[Tensor], np.ndarray]:
    """`images_of`, each `normalised`."""
    images, of_sample = images_of(inputs, samples)
    return [normalised(image, mean, std, like) for image in images], of_sample


def run_by_size(images: Sequence[Tensor], run: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """What a network gives for each image; those of one size run together, none is padded."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, image in enumerate(images):
        groups.setdefault(tuple(image.shape), []).append(number)
    found: dict[int, Tensor] = {}
    for numbers in groups.values():
        results = run(torch.stack([images[number] for number in numbers]))
        found.update(zip(numbers, results, strict=True))
    return [found[number] for number in range(len(images))]
