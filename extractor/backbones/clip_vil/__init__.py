"""CLIP-ViL: a transformer over the words of a question and the grid of CLIP's ResNet.

Source: arXiv 2107.06383; the module names are those of the released checkpoints.
"""

from __future__ import annotations

from .backbone import ClipViLBackbone, load
from .config import ClipViLConfig
from .network import ClipViL, ClipViLStates

__all__ = ["ClipViL", "ClipViLBackbone", "ClipViLConfig", "ClipViLStates", "load"]
