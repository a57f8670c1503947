"""Tiny random text encoders of every supported family, saved as a user would have them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer

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
    tokenizer = tiny_tokenizer(made.tokenizer)
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


@dataclass(frozen=True)
class TinyTimm:
    """A small random model of timm, and what its states must look like.

    Attributes:
        architecture: timm's name.
        image_size: Of the square images it reads.
        options: What makes it small.
        streams: Name to rows of one image, width, and number of layers.
        final_norms: Of all layers in order, of all streams in order.
    """

    architecture: str
    image_size: int
    options: dict[str, Any]
    streams: dict[str, tuple[int, int, int]]
    final_norms: list[bool | None]


_NORMED = [False, False, True]

TIMM: dict[str, TinyTimm] = {
    "class token": TinyTimm(
        "vit_tiny_patch16_224", 32, {"img_size": 32, "depth": 2}, {"tokens": (5, 192, 3)}, _NORMED
    ),
    "distillation token": TinyTimm(
        "deit_tiny_distilled_patch16_224",
        32,
        {"img_size": 32, "depth": 2},
        {"tokens": (6, 192, 3)},
        _NORMED,
    ),
    "registers": TinyTimm(
        "vit_small_patch14_reg4_dinov2",
        28,
        {"img_size": 28, "depth": 2, "embed_dim": 48},
        {"tokens": (9, 48, 3)},
        _NORMED,
    ),
    # Rotary positions, and its norm stands after the pooling.
    "eva": TinyTimm(
        "eva02_tiny_patch14_224",
        28,
        {"img_size": 28, "depth": 2},
        {"tokens": (5, 192, 3)},
        [None] * 3,
    ),
    # Averages its patches, and only then applies its norm.
    "no prefix tokens": TinyTimm(
        "vit_tiny_patch16_224",
        32,
        {"img_size": 32, "depth": 2, "class_token": False, "global_pool": "avg"},
        {"tokens": (4, 192, 3)},
        [None] * 3,
    ),
    # Its class token joins after the last block.
    "late class token": TinyTimm(
        "xcit_nano_12_p16_224",
        32,
        {"img_size": 32, "depth": 2},
        {"tokens": (4, 128, 3), "output": (5, 128, 1)},
        [False, False, False, True],
    ),
    "swin": TinyTimm(
        "swin_tiny_patch4_window7_224",
        56,
        {"img_size": 56, "embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
        {
            "stage1": (196, 12, 1),
            "stage2": (49, 24, 1),
            "stage3": (16, 48, 1),
            "stage4": (4, 96, 1),
        },
        [False, False, False, True],
    ),
    "convnext": TinyTimm(
        "convnext_atto",
        64,
        {"dims": (8, 16, 24, 32)},
        {
            "stage1": (256, 8, 1),
            "stage2": (64, 16, 1),
            "stage3": (16, 24, 1),
            "stage4": (4, 32, 1),
        },
        [None] * 4,
    ),
    "resnet": TinyTimm(
        "resnet18",
        64,
        {"channels": (8, 16, 24, 32)},
        {
            "stage1": (256, 8, 1),
            "stage2": (64, 16, 1),
            "stage3": (16, 24, 1),
            "stage4": (4, 32, 1),
        },
        [None] * 4,
    ),
    # A convolution widens its last map, which then is a stream of its own.
    "mobilenet": TinyTimm(
        "mobilenetv2_035",
        64,
        {"pad_type": "same"},
        {
            "stage1": (256, 8, 1),
            "stage2": (64, 16, 1),
            "stage3": (16, 32, 1),
            "stage4": (4, 112, 1),
            "stage5": (4, 1280, 1),
        },
        [None] * 5,
    ),
    "regnet": TinyTimm(
        "regnetx_002",
        64,
        {},
        {
            "stage1": (256, 24, 1),
            "stage2": (64, 56, 1),
            "stage3": (16, 152, 1),
            "stage4": (4, 368, 1),
        },
        [None] * 4,
    ),
}


def save_tiny_timm(folder: Path, kind: str) -> Path:
    """Save a random model of `TIMM` in timm's own format.

    Its transform cuts a bicubic centre out, which no transform does that is taken by default.
    """
    import timm
    from timm.models import save_for_hf

    made = TIMM[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = timm.create_model(made.architecture, num_classes=5, **made.options).eval()
        shake(model)
    settings = {
        "input_size": (3, made.image_size, made.image_size),
        "crop_pct": 0.8,
        "interpolation": "bicubic",
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.3, 0.4),
        "tag": "tiny",
    }
    save_for_hf(
        model,
        str(folder),
        model_config={"pretrained_cfg": settings},
        model_args={**made.options, "num_classes": 5},
        data_config=settings,
        safe_serialization=True,
    )
    return folder


def tiny_tokenizer(kind: str) -> Any:
    """A tokenizer of this class, trained on `CORPUS`.

    Training a WordPiece breaks ties in an order that is another one in each process, and its size
    changes with them; so of its pieces only letters and whole words are kept, sorted.
    """
    made = getattr(transformers, kind)()
    trained = made.train_new_from_iterator(CORPUS * 4, vocab_size=300, show_progress=False)
    parts = trained.backend_tokenizer
    state = json.loads(parts.to_str())
    if state["model"]["type"] == "WordPiece":
        text = parts.normalizer.normalize_str(" ".join(CORPUS))
        words = {word for word, _ in parts.pre_tokenizer.pre_tokenize_str(text)}
        by_id = sorted(state["model"]["vocab"], key=state["model"]["vocab"].__getitem__)
        special = [piece for piece in by_id if piece in trained.all_special_tokens]
        letters = {piece for piece in by_id if len(piece.removeprefix("##")) == 1}
        kept = [*special, *sorted(words.intersection(by_id) | letters)]
        state["model"]["vocab"] = {piece: number for number, piece in enumerate(kept)}
        trained._tokenizer = Tokenizer.from_str(json.dumps(state))
    return trained


def shake(module: torch.nn.Module) -> None:
    """Move every number: of ones and zeros it would not show whether a norm is applied."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.rand_like(tensor) if "running_var" in name else torch.randn_like(tensor)
            tensor.add_(noise * 0.1)


def save_tiny_mdetr(folder: Path, **sizes: Any) -> Path:
    """Save a random MDETR with its heads: 6 + 6 layers of width 16, 5 queries, a tiny CNN."""
    from extractor.backbones.mdetr import MDETR, MDETRConfig
    from extractor.backbones.released import save_network

    tokenizer = tiny_tokenizer("RobertaTokenizer")
    text = {
        **_SIZES,
        "model_type": "roberta",
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_POSITIONS + 2,
        "pad_token_id": 1,
    }
    defaults = {
        "backbone": "timm_test_resnet",
        "hidden_size": 16,
        "num_heads": 2,
        "intermediate_size": 32,
        "num_queries": 5,
        "image_size": 64,
        "max_image_size": 112,
        "text_config": text,
    }
    config = MDETRConfig(**{**defaults, **sizes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = MDETR(config).eval()
        shake(network)
        width = config.hidden_size
        heads = torch.nn.ModuleDict(
            {
                "class_embed": torch.nn.Linear(width, 256),
                "bbox_embed": torch.nn.ModuleDict(
                    {
                        "layers": torch.nn.ModuleList(
                            torch.nn.Linear(width, out) for out in (width, width, 4)
                        )
                    }
                ),
                "contrastive_align_projection_image": torch.nn.Linear(width, 64),
                "contrastive_align_projection_text": torch.nn.Linear(width, 64),
            }
        )
    save_network(folder, config, network.state_dict(), heads.state_dict(), tokenizer)
    return folder


def save_tiny_clip_vil(folder: Path, **sizes: Any) -> Path:
    """Save a random CLIP-ViL with its heads: 3 layers of width 16, frames of 64 x 96 pixels."""
    from extractor.backbones.clip_vil import ClipViL, ClipViLConfig
    from extractor.backbones.released import save_network

    tokenizer = tiny_tokenizer("BertTokenizer")
    defaults = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_layers": 3,
        "num_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": MAX_POSITIONS,
        "visual_layers": (1, 2, 1, 1),
        "visual_width": 8,
        "visual_positions": 5,
        "image_size": (64, 96),
    }
    config = ClipViLConfig(**{**defaults, **sizes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = ClipViL(config).eval()
        shake(network)
        width = config.hidden_size
        heads = {
            "bert.pooler.dense": torch.nn.Linear(width, width),
            "answer_head.logit_fc.0": torch.nn.Linear(width, 2 * width),
            "answer_head.logit_fc.2": torch.nn.LayerNorm(2 * width),
            "answer_head.logit_fc.3": torch.nn.Linear(2 * width, 11),
        }
        named = {
            f"{path}.{name}": value
            for path, head in heads.items()
            for name, value in head.state_dict().items()
        }
    save_network(folder, config, network.state_dict(), named, tokenizer)
    return folder
