"""MDETR: a detector that looks for what a sentence names.

ResNet and RoBERTa feed an encoder over image and text together, whose states a decoder's queries
read. Source: arXiv 2104.12763; the module names are those of the released checkpoints.
"""

from __future__ import annotations

from .backbone import MDETRBackbone, load
from .config import MDETRConfig
from .network import MDETR, MDETRStates

__all__ = ["MDETR", "MDETRBackbone", "MDETRConfig", "MDETRStates", "load"]
