"""Small random pictures, and how the library itself reads them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (50, 40)) -> bytes:
    """A smooth random photo as PNG bytes; size is width and height."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


PICTURES = [picture(0), picture(1, (40, 61)), picture(2, (32, 32))]


def library_pixels(folder: Path, image: bytes) -> torch.Tensor:
    """(1, 3, H, W) of one image, as the library's own processor gives it with Pillow."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    opened = Image.open(io.BytesIO(image)).convert("RGB")
    pixels: torch.Tensor = processor(opened, return_tensors="pt")["pixel_values"]
    return pixels
