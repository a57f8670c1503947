"""Frozen pretrained networks: find them, load them, run them, all behind one interface.

    resolved = resolve_backbone(BackboneConfig(name="bert-base"))    files only, no torch
    backbone = load_backbone(BackboneConfig(name="bert-base"), device="auto")
    batch = backbone.run(backbone.prepare([{"text": "a text"}]), [0])

A new kind of backbone is a module with `load`, and an entry in `kinds.py`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .aliases import ALIASES
from .config import BackboneConfig, Modality, Precision
from .errors import (
    BackboneError,
    BackboneNotFoundError,
    UnknownBackboneError,
    UnsupportedBackboneError,
)
from .kinds import check_settings, is_tested, kind_of, modality_of
from .resolve import ResolvedBackbone, resolve_backbone

if TYPE_CHECKING:
    import torch

    from .base import Backbone

__all__ = [
    "ALIASES",
    "BackboneConfig",
    "BackboneError",
    "BackboneNotFoundError",
    "Modality",
    "Precision",
    "ResolvedBackbone",
    "UnknownBackboneError",
    "UnsupportedBackboneError",
    "load_backbone",
    "modality_read",
    "resolve_backbone",
]


def load_backbone(config: BackboneConfig, device: torch.device | str = "auto") -> Backbone:
    """Load the backbone of this name onto a device, frozen and in eval mode.

    Raises:
        BackboneError: It is not known, not there, not supported, or a setting does not fit it.
    """
    resolved = resolve_backbone(config)
    kind = kind_of(resolved)
    modality = modality_of(kind, config)
    check_settings(kind, config, modality)
    chosen = config.model_copy(update={"modality": modality})
    module = import_module(f".{kind.module}", __name__)
    if is_tested(resolved):
        tested: Backbone = module.load(resolved, chosen, device)
        return tested
    from .selfcheck import load_untested

    return load_untested(module.load, resolved, chosen, device)


def modality_read(config: BackboneConfig) -> Modality:
    """What the backbone of this name will read, from its config alone.

    Raises:
        BackboneError: It is not known, not there, not supported, or could read several things.
    """
    return modality_of(kind_of(resolve_backbone(config)), config)
