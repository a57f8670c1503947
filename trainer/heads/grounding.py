"""The heads that turn decoder queries into boxes and say which words each box is about.

B samples, Q queries, T text tokens, D width, C text positions (soft tokens), H width of the
contrastive space.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class GroundingOutput:
    """Predictions for the queries of one decoder level.

    Attributes:
        logits: (B, Q, C + 1), one logit for each text position and a last one for "no object".
        boxes: (B, Q, 4), centre and size in [0, 1] of the image.
        queries: (B, Q, H), length 1.
    """

    logits: Tensor
    boxes: Tensor
    queries: Tensor


class GroundingHeads(nn.Module):
    """Boxes, soft tokens and contrastive projections of MDETR, shared by all decoder levels.

    Parameters carry the names of the authors' release (`class_embed`, `bbox_embed.layers.i`,
    `contrastive_align_projection_image`, `..._text`).

    Args:
        width: D.
        num_positions: C; 255 in the release.
        contrastive_width: H; 64 in the release.
        text_width: Of the text tokens; D if not given.
    """

    def __init__(
        self,
        width: int,
        num_positions: int = 255,
        contrastive_width: int = 64,
        text_width: int | None = None,
    ) -> None:
        super().__init__()
        self.class_embed = nn.Linear(width, num_positions + 1)
        self.bbox_embed = BoxRegressor(width)
        self.contrastive_align_projection_image = nn.Linear(width, contrastive_width)
        self.contrastive_align_projection_text = nn.Linear(text_width or width, contrastive_width)

    def forward(self, queries_BQD: Tensor) -> GroundingOutput:
        """Predictions of one level."""
        return GroundingOutput(
            self.class_embed(queries_BQD),
            self.bbox_embed(queries_BQD),
            F.normalize(self.contrastive_align_projection_image(queries_BQD), dim=-1),
        )

    def project_text(self, text_BTD: Tensor) -> Tensor:
        """Text tokens in the contrastive space: (B, T, H), length 1."""
        return F.normalize(self.contrastive_align_projection_text(text_BTD), dim=-1)


class BoxRegressor(nn.Module):
    """Three linear layers with ReLU between them, then a sigmoid: (..., D) to (..., 4)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 4)]
        )

    def forward(self, queries: Tensor) -> Tensor:
        """Centre and size in [0, 1] of the image."""
        first, second, third = self.layers
        boxes: Tensor = third(F.relu(second(F.relu(first(queries))))).sigmoid()
        return boxes
