"""What is checked while a backbone loads whose family no test here covers."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .base import Backbone, Sample
from .config import BackboneConfig
from .errors import BackboneError, UnsupportedBackboneError
from .resolve import ResolvedBackbone

# Of the largest number of a stream: sums in another order, in a precision with this epsilon.
_ULPS = 200


def load_untested(
    load: Callable[..., Backbone],
    resolved: ResolvedBackbone,
    config: BackboneConfig,
    device: torch.device | str,
) -> Backbone:
    """Load a backbone of a family that may need other inputs than its kind gives, and check it.

    Raises:
        BackboneError: It cannot be loaded, does not run, or its states are not to be trusted.
    """
    try:
        backbone = load(resolved, config, device)
        check_untested(backbone, config)
    except BackboneError:
        raise
    except Exception as error:  # whatever a model says that is given what it does not read
        said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UnsupportedBackboneError(
            f"{resolved.name}: this family is not known here, and does not run on "
            f"{config.modality} alone ({said}). Choose another backbone."
        ) from error
    return backbone


def check_untested(backbone: Backbone, config: BackboneConfig) -> None:
    """Make sure that padding does not leak, and that a second run gives the same.

    Raises:
        UnsupportedBackboneError: A sample's states depend on its batch, or on chance.
    """
    prepared = backbone.prepare(_samples(config))
    alone, again = (backbone.run(prepared, [0]) for _ in range(2))
    batch = backbone.run(prepared, [0, 1])
    for name, stream in alone.streams.items():
        if not torch.equal(stream.values, again.streams[name].values):
            raise _refusal(backbone, name, "a second run gives others")
        found = batch.streams[name].values[: len(stream.values)]
        if not _is_close(found, stream.values):
            raise _refusal(backbone, name, "they change with the other samples of the batch")


def _is_close(found: Tensor, expected: Tensor) -> bool:
    bound = _ULPS * torch.finfo(expected.dtype).eps * expected.float().abs().max()
    return bool((found.float() - expected.float()).abs().max() <= bound)


def _refusal(backbone: Backbone, stream: str, reason: str) -> UnsupportedBackboneError:
    return UnsupportedBackboneError(
        f"{backbone.spec.name}: the hidden states of {backbone.spec.architecture} (stream "
        f"{stream}) are not those of a sample alone: {reason}. Choose another backbone."
    )


def _samples(config: BackboneConfig) -> list[Sample]:
    texts = [{"text": "One."}, {"text": "Two are more than one, and three are more than two."}]
    if config.modality == "text":
        return list(texts)
    images = [_image(seed) for seed in range(2)]
    role = "image" if config.frames is None else "video"
    seen = [{role: image if config.frames is None else [image]} for image in images]
    if config.modality == "image":
        return list(seen)
    return [{**text, **image} for text, image in zip(texts, seen, strict=True)]


def _image(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()
