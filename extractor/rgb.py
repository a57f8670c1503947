"""Any image as RGB of 8 bits: one rule for files, frames and images in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

DECODING = "rgb of 8 bits, greys of 16 bits / 257, no alpha"
"""What `as_rgb` makes of an image, for fingerprints: another rule gives other pixels."""

# Formats whose widest greys have 16 bits, which Pillow gives as 32.
_GREYS_OF_16_BITS = ("PNG", "PPM")


def as_rgb(image: Image) -> Image:
    """Any image as RGB of 8 bits: greys of 16 bits are scaled, transparency is dropped.

    Raises:
        ValueError: Its numbers have no white that all such images share.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _GREYS_OF_16_BITS):
        # Pillow's own conversion cuts at 255, which makes nearly everything white.
        from PIL.Image import fromarray

        greys = (np.asarray(image).astype(np.uint32) + 128) // 257
        return fromarray(greys.astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "whole numbers of 32 bits" if image.mode == "I" else "floating point numbers"
        raise ValueError(f"pixels are {kind}, needed 8 or 16 bits: which one is white is not told")
    return image.convert("RGB")
