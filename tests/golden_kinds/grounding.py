"""Replays the set criterion, the span map and the evaluation of visual grounding."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from trainer.boxes import generalized_iou, iou, xywh_to_xyxy
from trainer.heads import GroundingOutput
from trainer.losses import (
    GroundingLosses,
    GroundingTargets,
    GroundingWeights,
    MatchCosts,
    grounding_losses,
    positive_map,
    total_over_levels,
)
from trainer.metrics import hits, order_by_score, predicted_boxes

from .base import GoldenFile, Kind, Replay

SETS = ("refcoco", "refcoco+", "refcocog")


def replay_criterion(golden: GoldenFile) -> Replay:
    meta = golden.meta
    names = [name for name in golden.inputs if name.split(".")[-1].startswith(("pred_", "proj_"))]
    inputs = {name: golden.tensor(name) for name in names}
    targets = _targets(golden, inputs["proj_tokens"].shape[1])
    costs = meta["matcher_costs"]
    weights = meta["weights"]
    levels = {
        prefix: grounding_losses(
            GroundingOutput(
                inputs[f"{prefix}pred_logits"],
                inputs[f"{prefix}pred_boxes"],
                inputs[f"{prefix}proj_queries"],
            ),
            inputs["proj_tokens"],
            targets,
            costs=MatchCosts(costs["class"], costs["bbox"], costs["giou"]),
        )
        for prefix in ["", *(f"aux{i}." for i in range(meta["num_aux"]))]
    }
    outputs: dict[str, Tensor | np.ndarray] = {}
    for prefix, losses in levels.items():
        outputs |= _named_losses(losses, prefix.removesuffix("."), targets)
    outputs["total"] = total_over_levels(
        list(levels.values()),
        GroundingWeights(
            weights["loss_ce"],
            weights["loss_bbox"],
            weights["loss_giou"],
            weights["loss_contrastive_align"],
        ),
    )
    return Replay(outputs=outputs, inputs=inputs)


def _targets(golden: GoldenFile, num_words: int) -> GroundingTargets:
    counts = torch.tensor(golden.meta["boxes_per_image"])
    soft_tokens = golden.tensor("positive_map") > 0
    maps = {
        width: torch.cat(
            [
                positive_map(phrases, characters, width)
                for phrases, characters in zip(
                    golden.meta["tokens_positive"],
                    golden.inputs["char_to_token"].tolist(),
                    strict=True,
                )
            ]
        )
        for width in (num_words, soft_tokens.shape[1])
    }
    assert torch.equal(maps[soft_tokens.shape[1]], soft_tokens)
    return GroundingTargets(
        boxes=golden.tensor("target_boxes"),
        image_of_box=torch.arange(len(counts)).repeat_interleave(counts),
        soft_tokens=soft_tokens,
        words=maps[num_words],
    )


def _named_losses(
    losses: GroundingLosses, level: str, targets: GroundingTargets
) -> dict[str, Tensor | np.ndarray]:
    suffix = f"_{level.removeprefix('aux')}" if level else ""
    of_level = f"_{level}" if level else ""
    first_box = torch.searchsorted(targets.image_of_box, losses.matches.images)
    named: dict[str, Tensor | np.ndarray] = {
        f"loss_ce{suffix}": losses.soft_tokens,
        f"loss_bbox{suffix}": losses.l1,
        f"loss_giou{suffix}": losses.giou,
        f"loss_contrastive_align{suffix}": losses.alignment,
        f"cardinality_error{suffix}": losses.cardinality_error,
        f"match_query{of_level}": losses.matches.queries,
        f"match_target{of_level}": losses.matches.boxes - first_box,
    }
    return named if level else {**named, "match_batch": losses.matches.images}


def replay_positive_map(golden: GoldenFile) -> Replay:
    characters = golden.inputs["char_to_token"][0].tolist()
    marks = positive_map(
        golden.meta["tokens_positive"], characters, golden.outputs["positive_map"].shape[1]
    ).float()
    shares = marks / (marks.sum(dim=1, keepdim=True) + 1e-6)
    return Replay(outputs={"positive_map": shares, "positive_map_after_collate": marks})


def replay_postprocess(golden: GoldenFile) -> Replay:
    boxes = golden.tensor("pred_boxes")
    scores, corners = predicted_boxes(
        GroundingOutput(golden.tensor("pred_logits"), boxes, boxes), golden.tensor("target_sizes")
    )
    return Replay(
        outputs={"scores": scores, "boxes": corners}, skipped={"labels": "always 1, not used"}
    )


def replay_refexp(golden: GoldenFile) -> Replay:
    scores, boxes = golden.tensor("scores"), golden.tensor("boxes")
    truth = xywh_to_xyxy(golden.tensor("gt_xywh"))
    names = np.array(golden.meta["dataset_names"])
    counts, threshold = golden.meta["k"], golden.meta["thresh_iou"]
    found = hits(scores, boxes, truth, counts=counts, threshold=threshold).double()
    outputs: dict[str, Tensor | np.ndarray] = {}
    for name in SETS:
        chosen = torch.from_numpy(names == name)
        # The original gives 0 for a set without expressions.
        outputs[f"precision.{name}"] = found[chosen].sum(dim=0) / max(int(chosen.sum()), 1)
    top = order_by_score(scores, boxes)[:, 0]
    outputs |= {"top1_giou": generalized_iou(top, truth), "top1_iou": iou(top, truth)}
    return Replay(outputs=outputs)


KINDS: dict[str, Kind] = {
    "mdetr_criterion": replay_criterion,
    "mdetr_positive_map": replay_positive_map,
    "mdetr_postprocess": replay_postprocess,
    "mdetr_refexp_eval": replay_refexp,
}
