"""One vector for each video from its frames, as CLIP4Clip's mean pooling makes it.

B videos, F frames, E features.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

NORM_EPS = 1e-6
"""Vectors shorter than this are divided by it instead, as in the release of CLIP4Clip."""


def mean_of_frames(frames_BFE: Tensor, mask_BF: Tensor) -> Tensor:
    """Scale each frame to length 1, average the real ones and scale again: (B, E).

    Args:
        frames_BFE: Frame features.
        mask_BF: 1 for a real frame. A video without any gives the zero vector.
    """
    mask_BF1 = mask_BF.to(frames_BFE.dtype)[:, :, None]
    units_BFE = F.normalize(frames_BFE, dim=-1, eps=NORM_EPS)
    counts_B1 = mask_BF1.sum(dim=1).clamp(min=1)
    return F.normalize((units_BFE * mask_BF1).sum(dim=1) / counts_B1, dim=-1, eps=NORM_EPS)
