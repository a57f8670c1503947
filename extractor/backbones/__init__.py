"""Frozen pretrained networks: find them, load them, run them, all behind one interface.

    resolved = resolve_backbone(BackboneConfig(name="bert-base"))    files only, no torch
    backbone = load_backbone(BackboneConfig(name="bert-base"), device="auto")
    batch = backbone.run(backbone.prepare([{"text": "a text"}]), [0])

A new kind of backbone is a module that makes a `Backbone` from a `ResolvedBackbone`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .aliases import ALIASES
from .config import BackboneConfig, Precision
from .errors import (
    BackboneError,
    BackboneNotFoundError,
    UnknownBackboneError,
    UnsupportedBackboneError,
)
from .resolve import ResolvedBackbone, resolve_backbone

if TYPE_CHECKING:
    import torch

    from .base import Backbone

__all__ = [
    "ALIASES",
    "BackboneConfig",
    "BackboneError",
    "BackboneNotFoundError",
    "Precision",
    "ResolvedBackbone",
    "UnknownBackboneError",
    "UnsupportedBackboneError",
    "load_backbone",
    "resolve_backbone",
]


def load_backbone(config: BackboneConfig, device: torch.device | str = "auto") -> Backbone:
    """Load the backbone of this name onto a device, frozen and in eval mode.

    Raises:
        BackboneError: It is not known, not there, not supported, or a setting does not fit it.
    """
    from .huggingface import load_text_backbone

    return load_text_backbone(resolve_backbone(config), config, device)
