"""Images and image backbones that the benchmarks make themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from timm.models import save_for_hf


def random_photos(folder: Path, count: int, side: int = 256) -> Path:
    """JPEGs that cost about as much to decode as photos: smooth shapes with some noise."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        noisy = (smooth + rng.integers(-8, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:05}.jpg", quality=90)
    return folder


def random_timm_model(folder: Path, name: str) -> Path:
    """A timm model with random weights, which is as slow as the pretrained one."""
    torch.manual_seed(0)
    save_for_hf(timm.create_model(name), str(folder), safe_serialization=True)
    return folder
