"""The symmetric cross-entropy of video-text retrieval.

B pairs of text and video, E features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def similarity_logits(text_BE: Tensor, video_BE: Tensor, log_scale: Tensor | float) -> Tensor:
    """Cosine similarities times exp(log_scale): (texts, videos), from vectors of length 1."""
    return torch.as_tensor(log_scale).exp() * (text_BE @ video_BE.T)


def row_cross_entropy(logits_BB: Tensor) -> Tensor:
    """Mean over rows of -log softmax at the diagonal."""
    return F.cross_entropy(logits_BB, torch.arange(len(logits_BB), device=logits_BB.device))


def symmetric_cross_entropy(logits_BB: Tensor) -> Tensor:
    """Half the row loss of the logits and half that of their transpose."""
    return (row_cross_entropy(logits_BB) + row_cross_entropy(logits_BB.T)) / 2
