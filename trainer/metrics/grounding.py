"""How often a referring expression finds its box.

B images, Q predicted boxes of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..boxes import cxcywh_to_xyxy, generalized_iou
from ..heads import GroundingOutput

Overlap = Callable[[Tensor, Tensor], Tensor]
"""`trainer.boxes.generalized_iou` as the authors measure, or plain `trainer.boxes.iou`."""


def predicted_boxes(output: GroundingOutput, sizes_B2: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B, Q) and corner boxes (B, Q, 4) in pixels.

    Args:
        output: Predictions; a score is 1 minus the probability of "no object".
        sizes_B2: Height and width of each image, in pixels.
    """
    scores_BQ = 1 - output.logits.softmax(dim=-1)[..., -1]
    scale_B14 = sizes_B2.flip(1).repeat(1, 2)[:, None]
    return scores_BQ, cxcywh_to_xyxy(output.boxes) * scale_B14


def best_first(scores_BQ: Tensor, boxes_BQ4: Tensor) -> Tensor:
    """(B, Q) int64, the query of the highest score first; of equals, that with larger numbers."""
    boxes = boxes_BQ4.detach().cpu().numpy()
    keys = (*(boxes[..., axis] for axis in (3, 2, 1, 0)), scores_BQ.detach().cpu().numpy())
    return torch.from_numpy(np.lexsort(keys, axis=-1)[:, ::-1].copy()).to(boxes_BQ4.device)


def order_by_score(scores_BQ: Tensor, boxes_BQ4: Tensor) -> Tensor:
    """Boxes in the order of `best_first`."""
    order_BQ = best_first(scores_BQ, boxes_BQ4)
    return boxes_BQ4.gather(1, order_BQ[..., None].expand_as(boxes_BQ4))


def hits(
    scores_BQ: Tensor,
    boxes_BQ4: Tensor,
    truth_B4: Tensor,
    *,
    counts: Sequence[int] = (1, 5, 10),
    threshold: float = 0.5,
    overlap: Overlap = generalized_iou,
) -> Tensor:
    """Whether one of the first k boxes fits: (B, len(counts)) bool.

    Args:
        scores_BQ: Of the predicted boxes.
        boxes_BQ4: Predicted corner boxes.
        truth_B4: The corner box of each expression.
        counts: The values of k.
        threshold: Smallest overlap that fits.
        overlap: GIoU is at most IoU, so the authors' choice is slightly stricter.
    """
    fits_BQ = overlap(order_by_score(scores_BQ, boxes_BQ4), truth_B4[:, None]) >= threshold
    return torch.stack([fits_BQ[:, :k].any(dim=1) for k in counts], dim=1)
