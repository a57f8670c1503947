"""Replays the evaluation of image-text and video-text retrieval."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import torch
from torch import Tensor

from trainer.metrics import (
    RecallSummary,
    best_of_groups,
    mean_of_folds,
    rank_embeddings,
    rank_scores,
    recall_by,
    recall_of_folds,
    summarize_places,
    two_way_recall,
)

from .base import GoldenFile, Kind, Replay

Outputs = dict[str, Tensor | np.ndarray]


def replay_vse(golden: GoldenFile) -> Replay:
    images, captions = golden.tensor("image_embeddings"), golden.tensor("caption_embeddings")
    image = torch.arange(len(images))
    image_of_caption = image.repeat_interleave(len(captions) // len(images))
    recall = two_way_recall(images, captions, image_of_caption)
    sims = images.double() @ captions.double().T
    outputs: Outputs = {
        "i2t": np.array(astuple(recall.item_to_text)),
        "t2i": np.array(astuple(recall.text_to_item)),
        "rsum": np.array(recall.rsum),
        "i2t_ranks": rank_embeddings(images, captions, image, image_of_caption).ahead,
        "t2i_ranks": rank_embeddings(captions, images, image_of_caption, image).ahead,
        "i2t_top1": sims.argmax(dim=1),
        "t2i_top1": sims.argmax(dim=0),
        "sims": sims,
    }
    if golden.meta["fold5"]:
        folds = recall_of_folds(images, captions, image_of_caption, num_folds=5)
        outputs["fold5_per_fold"] = np.array([_thirteen(*_ways(fold)) for fold in folds])
        outputs["fold5_mean"] = np.array(_thirteen(*_ways(mean_of_folds(folds))))
    return Replay(outputs=outputs)


def _ways(recall):
    return recall.item_to_text, recall.text_to_item


def _thirteen(i2t: RecallSummary, t2i: RecallSummary) -> list[float]:
    """Both directions, their mean recalls, and the sum of all six."""
    recalls = [way.r1 + way.r5 + way.r10 for way in (i2t, t2i)]
    return [*astuple(i2t), *astuple(t2i), *(recall / 3 for recall in recalls), sum(recalls)]


def replay_clip4clip(golden: GoldenFile) -> Replay:
    if golden.meta["multi_sentence"]:
        return _replay_multi_sentence(golden)
    scores = golden.tensor("sim_matrix").double()
    # Texts whose inner products with unit vectors are these scores.
    recall = recall_by("clip4clip", torch.eye(len(scores)), scores, torch.arange(len(scores)))
    return Replay(
        outputs=_square("text_to_video", scores)
        | _square("video_to_text", scores.T)
        | _named("text_to_video", recall.text_to_item)
        | _named("video_to_text", recall.item_to_text)
    )


def _square(way: str, scores: Tensor) -> Outputs:
    """`compute_metrics`: pairs on the diagonal, every tied place counted."""
    index = torch.arange(len(scores))
    places = rank_scores(scores, index, index).places("every")
    return {**_named(way, summarize_places(places)), f"{way}.cols": places}


def _named(way: str, summary: RecallSummary) -> Outputs:
    return {
        f"{way}.R1": np.array(summary.r1),
        f"{way}.R5": np.array(summary.r5),
        f"{way}.R10": np.array(summary.r10),
        f"{way}.MR": np.array(summary.median_rank),
        f"{way}.MedianR": np.array(summary.median_rank),
        f"{way}.MeanR": np.array(summary.mean_rank),
    }


def _replay_multi_sentence(golden: GoldenFile) -> Replay:
    scores = golden.tensor("sim_matrix")
    cuts = golden.inputs["cut_off_points"]
    video = torch.arange(len(cuts))
    video_of_sentence = torch.from_numpy(np.repeat(np.arange(len(cuts)), np.diff(cuts, prepend=0)))
    places = rank_scores(scores, video_of_sentence, video).ahead
    ways = recall_by("clip4clip-sentences", torch.eye(len(cuts)), scores, video_of_sentence)
    text_to_video = _named("text_to_video", ways.text_to_item)
    for recall in ("R1", "R5", "R10"):
        # The original takes these shares in float32.
        share = text_to_video[f"text_to_video.{recall}"].astype(np.float32)
        text_to_video[f"text_to_video.{recall}"] = share.astype(np.float64)
    merged = best_of_groups(scores.T, video_of_sentence, len(cuts))
    return Replay(
        outputs={
            **text_to_video,
            "text_to_video.Std_Rank": places.double().std(correction=0),
            "video_to_text_sim": merged,
            **_square("video_to_text", merged),
            **_named("video_to_text", ways.item_to_text),
        },
        skipped={"sim_tensor": "a padded copy of the scores that nothing here needs"},
    )


KINDS: dict[str, Kind] = {
    "vse_retrieval_eval": replay_vse,
    "clip4clip_metrics": replay_clip4clip,
}
