"""Replays the answer head and the grounding heads."""

from __future__ import annotations

from trainer.heads import AnswerHead, GroundingHeads

from .base import GoldenFile, Kind, Replay


def replay_answer_head(golden: GoldenFile) -> Replay:
    lang_feats = golden.tensor("lang_feats")
    head = AnswerHead(golden.meta["hidden_size"], golden.meta["num_answers"])
    head.load_state_dict(golden.parameters())
    pooled = head.pool(lang_feats[:, 0])
    return Replay(
        outputs={"pooled": pooled, "logits": head.logit_fc(pooled)},
        parameters=dict(head.named_parameters()),
        inputs={"lang_feats": lang_feats},
    )


def replay_grounding_heads(golden: GoldenFile) -> Replay:
    meta = golden.meta
    heads = GroundingHeads(meta["d_model"], meta["num_classes"], meta["contrastive_hdim"])
    heads.load_state_dict(golden.parameters())
    hidden, text = golden.tensor("hs"), golden.tensor("text_memory")
    outputs = {"proj_tokens": heads.project_text(text.transpose(0, 1))}
    for level, queries in enumerate(hidden):
        prefix = "" if level == len(hidden) - 1 else f"aux{level}."
        found = heads(queries)
        outputs[f"{prefix}pred_logits"] = found.logits
        outputs[f"{prefix}pred_boxes"] = found.boxes
        outputs[f"{prefix}proj_queries"] = found.queries
    return Replay(
        outputs=outputs,
        parameters=dict(heads.named_parameters()),
        inputs={"hs": hidden},
        skipped={"sum_all": "a checksum of the other outputs"},
    )


KINDS: dict[str, Kind] = {
    "clipvil_pooler_head": replay_answer_head,
    "mdetr_heads": replay_grounding_heads,
}
