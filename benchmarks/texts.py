"""Texts and backbones that the benchmarks make themselves."""

from __future__ import annotations

import random
from pathlib import Path

import torch

WORDS = (
    "the a of and to in is was for on that with as it by at from this his her which are be an or "
    "were had not have but one all when their has been would who will more no out up so said what "
    "time film story people way good first last long great little own other old right big high"
)


def random_texts(path: Path, count: int, shortest: int = 14, longest: int = 46) -> Path:
    """A csv of `count` labelled texts of that many words, which are as many tokens less two."""
    rng = random.Random(0)
    rows = ["text,label"]
    for row in range(count):
        words = " ".join(rng.choices(WORDS.split(), k=rng.randint(shortest, longest)))
        rows.append(f"{words},{row % 2}")
    path.write_text("\n".join(rows) + "\n")
    return path


def random_bert_base(folder: Path) -> Path:
    """BERT-base with random weights, which is as slow as the pretrained one."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    from extractor import BackboneConfig, resolve_backbone

    minilm = resolve_backbone(BackboneConfig(name="minilm")).folder
    AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(BertConfig(), add_pooling_layer=False).save_pretrained(folder)
    return folder
