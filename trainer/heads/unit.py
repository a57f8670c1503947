"""Embeddings of length 1."""

from __future__ import annotations

import torch
from torch import Tensor


def scale_to_unit(vectors: Tensor, eps: float = 1e-8) -> Tensor:
    """Divide each vector (last axis) by its length plus `eps`; a zero vector stays zero.

    Source: VSE-infinity's `l2norm`, which adds its eps where `torch.nn.functional.normalize`
    takes the larger of the two.
    """
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / (lengths + eps)
