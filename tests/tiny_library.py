"""Tiny random models of transformers: of images, of texts with images or regions, of texts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_models import MAX_POSITIONS, tiny_tokenizer

SIDE = 32  # pixels; patches of 8 make 16 of them

_VIT: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIDE,
    "patch_size": 8,
}
_MAPS: dict[str, Any] = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1]}
_SWIN: dict[str, Any] = {
    "image_size": SIDE,
    "patch_size": 4,
    "embed_dim": 8,
    "depths": [1, 2, 1],
    "num_heads": [1, 2, 2],
    "window_size": 2,
}


@dataclass(frozen=True)
class TinyVision:
    """How to make one family.

    Attributes:
        config: Class of its config.
        options: Of the config.
        first_tokens: Tokens before the patches: class, distillation, registers.
        final_norm: Whether its last state is normed; None where there is no norm.
    """

    config: str
    options: dict[str, Any]
    first_tokens: int = 1
    final_norm: bool | None = True
    processor: str = "ViTImageProcessor"
    recipe: dict[str, Any] = field(
        default_factory=lambda: {"size": {"height": SIDE, "width": SIDE}}
    )


VISION: dict[str, TinyVision] = {
    "vit": TinyVision("ViTConfig", _VIT),
    "deit": TinyVision("DeiTConfig", _VIT, first_tokens=2),
    "beit": TinyVision(
        "BeitConfig", {**_VIT, "use_relative_position_bias": True}, final_norm=False
    ),
    "dinov2": TinyVision("Dinov2Config", _VIT),
    "dinov2_with_registers": TinyVision("Dinov2WithRegistersConfig", _VIT, first_tokens=5),
    "dinov3_vit": TinyVision("DINOv3ViTConfig", {**_VIT, "num_register_tokens": 4}, first_tokens=5),
    "clip_vision_model": TinyVision("CLIPVisionConfig", _VIT, final_norm=False),
    "siglip_vision_model": TinyVision("SiglipVisionConfig", _VIT, first_tokens=0),
}
MAPS: dict[str, TinyVision] = {
    "swin": TinyVision("SwinConfig", _SWIN),
    "swinv2": TinyVision("Swinv2Config", _SWIN),
    "convnext": TinyVision("ConvNextConfig", _MAPS, final_norm=False),
    "convnextv2": TinyVision("ConvNextV2Config", _MAPS, final_norm=False),
    "dinov3_convnext": TinyVision("DINOv3ConvNextConfig", _MAPS),
    "resnet": TinyVision("ResNetConfig", {**_MAPS, "embedding_size": 8}, final_norm=None),
    "regnet": TinyVision(
        "RegNetConfig",
        {**_MAPS, "embedding_size": 8, "groups_width": 8},
        final_norm=None,
    ),
}
NOT_LISTED: dict[str, TinyVision] = {
    "vit_msn": TinyVision("ViTMSNConfig", _VIT),
    "vit_mae": TinyVision("ViTMAEConfig", _VIT),
}
RECIPE: dict[str, Any] = {
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
    "resample": 3,
}


def save_tiny_vision(folder: Path, family: str) -> Path:
    """Save a random vision model of this family with its preprocessor_config.json."""
    made = {**VISION, **MAPS, **NOT_LISTED}[family]
    config = getattr(transformers, made.config)(**made.options)
    _save(transformers.AutoModel, config, folder)
    transformers.ViTImageProcessor(**made.recipe, **RECIPE).save_pretrained(folder)
    return folder


def save_tiny_dual(folder: Path, family: str) -> Path:
    """Save a random CLIP or SigLIP of 32 pixels and `MAX_POSITIONS` tokens."""
    tokenizer = _train("CLIPTokenizer" if family == "clip" else "T5Tokenizer")
    tokenizer.save_pretrained(folder)
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": MAX_POSITIONS,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    if family == "clip":
        config = transformers.CLIPConfig(
            text_config={**text, "projection_dim": 12},
            vision_config={**_VIT, "hidden_size": 20, "projection_dim": 12},
            projection_dim=12,
        )
        settings = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}
        processor = transformers.CLIPImageProcessor(**settings, **RECIPE)
    else:
        config = transformers.SiglipConfig(text_config=text, vision_config=_VIT)
        settings = {"size": {"height": SIDE, "width": SIDE}}
        processor = transformers.SiglipImageProcessor(**settings, **RECIPE)
    _save(transformers.AutoModel, config, folder)
    processor.save_pretrained(folder)
    return folder


def save_tiny_vilt(folder: Path) -> Path:
    """Save a random ViLT of 32 pixels on the shorter side."""
    tokenizer = _train("BertTokenizer")
    tokenizer.save_pretrained(folder)
    config = transformers.ViltConfig(
        **_VIT,
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
    )
    _save(transformers.AutoModel, config, folder)
    size = {"shortest_edge": SIDE}
    transformers.ViltImageProcessor(size=size, size_divisor=8, **RECIPE).save_pretrained(folder)
    return folder


REGION_WIDTH = 6
REGION_ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "visual_bert": (
        "VisualBertConfig", {"num_hidden_layers": 3, "visual_embedding_dim": REGION_WIDTH}
    ),
    "lxmert": (
        "LxmertConfig",
        {"l_layers": 3, "r_layers": 2, "x_layers": 2, "visual_feat_dim": REGION_WIDTH},
    ),
}  # fmt: skip


def save_tiny_region_encoder(folder: Path, family: str, **options: Any) -> Path:
    """Save a random VisualBERT or LXMERT that reads `REGION_WIDTH` features of each region."""
    name, sizes = REGION_ENCODERS[family]
    tokenizer = _train("BertTokenizer")
    tokenizer.save_pretrained(folder)
    config = getattr(transformers, name)(
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=32,
        vocab_size=len(tokenizer),
        max_position_embeddings=MAX_POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        **{**sizes, **options},
    )
    _save(transformers.AutoModel, config, folder)
    return folder


def _train(kind: str) -> Any:
    trained = tiny_tokenizer(kind)
    trained.model_max_length = MAX_POSITIONS
    return trained


def _save(architecture: Any, config: Any, folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = architecture.from_config(config, dtype=torch.float32).eval()
        # Freshly made norms and biases are ones and zeros: then a norm that is applied twice, or
        # not at all, would not show.
        for tensor in model.state_dict().values():
            if tensor.dtype.is_floating_point:
                tensor.add_(torch.randn_like(tensor).abs() * 0.1)
        model.save_pretrained(folder)


_DECODER: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 32,
    "max_position_embeddings": MAX_POSITIONS,
}
_GPT: dict[str, Any] = {"n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": MAX_POSITIONS}
_HEADS: dict[str, Any] = {**_DECODER, "head_dim": 8}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", _GPT),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": 16,
            "num_layers": 2,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": MAX_POSITIONS,
            "window_size": 8,
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", _DECODER),
    "gptj": ("GPTJConfig", {**_GPT, "rotary_dim": 4}),
    "opt": ("OPTConfig", {**_DECODER, "ffn_dim": 32, "word_embed_proj_dim": 16}),
    "bloom": ("BloomConfig", {"hidden_size": 16, "n_layer": 3, "n_head": 2}),
    "falcon": ("FalconConfig", _DECODER),
    "llama": ("LlamaConfig", _DECODER),
    "mistral": ("MistralConfig", {**_DECODER, "sliding_window": 8}),
    "mixtral": ("MixtralConfig", {**_DECODER, "num_local_experts": 2}),
    "qwen2": ("Qwen2Config", _DECODER),
    "qwen3": ("Qwen3Config", _HEADS),
    "gemma": ("GemmaConfig", _HEADS),
    "gemma2": ("Gemma2Config", {**_HEADS, "sliding_window": 8}),
    "gemma3_text": ("Gemma3TextConfig", {**_HEADS, "sliding_window": 8}),
    "phi": ("PhiConfig", _DECODER),
    "phi3": ("Phi3Config", _DECODER),
    "olmo2": ("Olmo2Config", _DECODER),
    "smollm3": ("SmolLM3Config", _DECODER),
    "stablelm": ("StableLmConfig", _DECODER),
    "starcoder2": ("Starcoder2Config", _DECODER),
    "granite": ("GraniteConfig", {**_DECODER, "embedding_multiplier": 3.0}),
}
_BART: dict[str, Any] = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": MAX_POSITIONS,
}
_T5: dict[str, Any] = {
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_decoder_layers": 3,
    "num_heads": 2,
}
ENCODER_DECODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "t5": ("T5Config", "T5Tokenizer", _T5),
    "mt5": ("MT5Config", "T5Tokenizer", _T5),
    "umt5": ("UMT5Config", "T5Tokenizer", _T5),
    "bart": ("BartConfig", "RobertaTokenizer", _BART),
    "mbart": ("MBartConfig", "RobertaTokenizer", _BART),
    "pegasus": ("PegasusConfig", "RobertaTokenizer", _BART),  # not listed by us
}


def save_tiny_decoder(folder: Path, family: str) -> Path:
    """Save a random decoder-only language model; its tokenizer adds and pads nothing."""
    name, options = DECODERS[family]
    tokenizer = _train("GPT2Tokenizer")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    _save(transformers.AutoModel, _text_config(name, tokenizer, options), folder)
    return folder


def save_tiny_encoder_decoder(folder: Path, family: str) -> Path:
    """Save a random encoder-decoder."""
    name, tokenizer_name, options = ENCODER_DECODERS[family]
    tokenizer = _train(tokenizer_name)
    tokenizer.save_pretrained(folder)
    start = {"decoder_start_token_id": tokenizer.pad_token_id}
    _save(transformers.AutoModel, _text_config(name, tokenizer, {**options, **start}), folder)
    return folder


def _text_config(name: str, tokenizer: Any, options: dict[str, Any]) -> Any:
    return getattr(transformers, name)(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **options,
    )
