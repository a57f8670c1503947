"""Replays the losses of retrieval and question answering."""

from __future__ import annotations

import torch.nn.functional as F

from trainer.losses import (
    row_cross_entropy,
    similarity_logits,
    soft_score_loss,
    soft_targets,
    symmetric_cross_entropy,
    triplet_loss,
)
from trainer.metrics import soft_accuracy
from trainer.pooling import mean_of_frames

from .base import GoldenFile, Kind, Replay


def replay_triplet(golden: GoldenFile) -> Replay:
    images, captions = golden.tensor("images"), golden.tensor("captions")
    scores = images @ captions.T
    loss = triplet_loss(scores, margin=golden.meta["margin"], hardest=golden.meta["max_violation"])
    return Replay(
        outputs={"loss": loss, "scores": scores},
        inputs={"images": images, "captions": captions},
    )


def replay_similarity(golden: GoldenFile) -> Replay:
    text, video = golden.tensor("sequence_output"), golden.tensor("visual_output")
    logits = similarity_logits(
        F.normalize(text[:, 0], dim=-1, eps=1e-6),
        mean_of_frames(video, golden.tensor("video_mask")),
        golden.meta["logit_scale_log"],
    )
    return Replay(
        outputs={
            "logits": logits,
            "loss_text_to_video": row_cross_entropy(logits),
            "loss_video_to_text": row_cross_entropy(logits.T),
            "loss": symmetric_cross_entropy(logits),
        },
        inputs={"sequence_output": text, "visual_output": video},
    )


def replay_row_cross_entropy(golden: GoldenFile) -> Replay:
    scores = golden.tensor("sim_matrix")
    return Replay(outputs={"loss": row_cross_entropy(scores)}, inputs={"sim_matrix": scores})


def replay_answers(golden: GoldenFile) -> Replay:
    meta = golden.meta
    logits = golden.tensor("logits")
    targets = soft_targets(
        golden.tensor("label_answer_ids"), golden.tensor("label_scores"), meta["num_answers"]
    )
    loss = soft_score_loss(
        logits,
        targets,
        loss_scale=meta["loss_scale"],
        accumulation=meta["gradient_accumulation_steps"],
    )
    return Replay(
        outputs={
            "target": targets,
            "predicted": logits.argmax(dim=1),
            "accuracy": soft_accuracy(logits, targets),
            "oracle_accuracy": soft_accuracy(targets, targets),
            "bce_mean": soft_score_loss(logits, targets, loss_scale=2, accumulation=2),
            "loss_loss_scale_1": soft_score_loss(logits, targets, loss_scale=1),
            "loss": loss,
        },
        inputs={"logits": logits},
    )


KINDS: dict[str, Kind] = {
    "vse_contrastive_loss": replay_triplet,
    "clip4clip_similarity": replay_similarity,
    "clip4clip_crossen": replay_row_cross_entropy,
    "clipvil_qa_target_loss_accuracy": replay_answers,
}
