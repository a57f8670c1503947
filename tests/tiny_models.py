"""Tiny random text encoders of every supported family, saved as a user would have them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

CORPUS = (
    "A frozen network never changes, so what it says about a text can be written down once.",
    "The river rose all night and the old bridge, which nobody had repaired, was gone by morning.",
    "Please send the signed forms back before Friday; late ones will not be read.",
    "Every test is a sentence that may turn out to be false.",
)
TEXTS = (
    "The bridge was gone.",
    "Please read the old forms again, before Friday!",
    "Once",
    "A network says what a text may be.",
)
MAX_POSITIONS = 64

_SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@dataclass(frozen=True)
class TinyFamily:
    """How to make one family: its config class, its tokenizer class, and what to override."""

    config: str
    tokenizer: str
    options: dict[str, Any]
    first_position: int = 0


FAMILIES: dict[str, TinyFamily] = {
    "bert": TinyFamily("BertConfig", "BertTokenizer", _SIZES),
    "roberta": TinyFamily("RobertaConfig", "RobertaTokenizer", _SIZES, first_position=1),
    "xlm-roberta": TinyFamily("XLMRobertaConfig", "XLMRobertaTokenizer", _SIZES, first_position=1),
    "distilbert": TinyFamily(
        "DistilBertConfig",
        "DistilBertTokenizer",
        {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32},
    ),
    "electra": TinyFamily("ElectraConfig", "BertTokenizer", {**_SIZES, "embedding_size": 8}),
    "mpnet": TinyFamily("MPNetConfig", "MPNetTokenizer", _SIZES, first_position=1),
    # As in DeBERTa v3: relative positions in the attention, no absolute ones, and in v2 xlarge a
    # convolution beside the first block.
    "deberta-v2": TinyFamily(
        "DebertaV2Config",
        "DebertaV2Tokenizer",
        {
            **_SIZES,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "norm_rel_ebd": "layer_norm",
            "conv_kernel_size": 3,
        },
    ),
    "modernbert": TinyFamily(
        "ModernBertConfig", "RobertaTokenizer", {**_SIZES, "global_attn_every_n_layers": 2}
    ),
}


def save_tiny_model(folder: Path, family: str) -> Path:
    """Save a random model of this family, and a tokenizer trained on `CORPUS`, in safetensors.

    Args:
        folder: Where to; made if it is not there.
        family: A key of `FAMILIES`.
    """
    made = FAMILIES[family]
    tokenizer = getattr(transformers, made.tokenizer)().train_new_from_iterator(
        CORPUS * 4, vocab_size=300, show_progress=False
    )
    # Families that count positions from the padding id + 1 have longer tables.
    shift = tokenizer.pad_token_id + 1 if made.first_position else 0
    tokenizer.model_max_length = MAX_POSITIONS
    tokenizer.save_pretrained(folder)
    config = getattr(transformers, made.config)(
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_POSITIONS + shift,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        cls_token_id=tokenizer.cls_token_id,
        sep_token_id=tokenizer.sep_token_id,
        **made.options,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = transformers.AutoModel.from_config(config, dtype=torch.float32).eval()
        # Freshly made norms and biases are ones and zeros: then a norm that is applied twice, or
        # not at all, would not show.
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
        model.save_pretrained(folder)
    return folder
