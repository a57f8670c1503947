"""Samples in, hidden states of a frozen backbone out, into a cache."""

from .augmentation import Augmentation
from .backbones import (
    ALIASES,
    BackboneConfig,
    BackboneNotFoundError,
    load_backbone,
    resolve_backbone,
)
from .backbones.convert import convert_checkpoint
from .config import ExtractConfig
from .errors import HiddenStateError
from .inputs import FORMATS, DataConfig, Role, open_data
from .report import ExtractionEstimate, ExtractionReport
from .request import default_cache_path
from .rgb import as_rgb
from .roles import roles_read
from .run import estimate, extract, repair

__all__ = [
    "ALIASES",
    "FORMATS",
    "Augmentation",
    "BackboneConfig",
    "BackboneNotFoundError",
    "DataConfig",
    "ExtractConfig",
    "ExtractionEstimate",
    "ExtractionReport",
    "HiddenStateError",
    "Role",
    "as_rgb",
    "convert_checkpoint",
    "default_cache_path",
    "estimate",
    "extract",
    "load_backbone",
    "open_data",
    "repair",
    "resolve_backbone",
    "roles_read",
]
