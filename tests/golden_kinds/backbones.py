"""Replays the frozen CLIP towers with Hugging Face's CLIP and the same weights.

This is what a cache of CLIP holds: hidden states from the embeddings on, without final norm.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from .base import GoldenFile, Kind, Replay

PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def replay_clip(golden: GoldenFile) -> Replay:
    params = golden.parameters()
    with torch.no_grad():
        text = _text_tower(golden, params)(golden.tensor("input_ids"), output_hidden_states=True)
        image = _image_tower(golden, params)(golden.tensor("images"), output_hidden_states=True)
    return Replay(
        outputs={
            "text_hidden_states": torch.stack(text.hidden_states),
            "text_raw_anchor": text.text_embeds,
            "image_hidden_states": torch.stack(image.hidden_states),
            "image_raw_anchor": image.image_embeds,
        }
    )


def _text_tower(golden: GoldenFile, params: dict[str, Tensor]) -> CLIPTextModelWithProjection:
    meta = golden.meta
    model = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=meta["vocab"],
            max_position_embeddings=meta["context_length"],
            bos_token_id=0,
            # 2 is what OpenAI's checkpoints say: the projected token is the one of the largest id.
            eos_token_id=2,
            **_sizes(golden, params["ln_final.weight"]),
        )
    )
    weights = {
        "embeddings.token_embedding.weight": params["token_embedding.weight"],
        "embeddings.position_embedding.weight": params["positional_embedding"],
        "final_layer_norm.weight": params["ln_final.weight"],
        "final_layer_norm.bias": params["ln_final.bias"],
        **_blocks(params, "transformer.resblocks."),
    }
    state = {f"text_model.{name}": value for name, value in weights.items()}
    model.load_state_dict(state | {"text_projection.weight": params["text_projection"].T})
    return model.eval()


def _image_tower(golden: GoldenFile, params: dict[str, Tensor]) -> CLIPVisionModelWithProjection:
    meta = golden.meta
    model = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            image_size=meta["image_resolution"],
            patch_size=meta["patch"],
            **_sizes(golden, params["visual.ln_post.weight"]),
        )
    )
    weights = {
        "embeddings.class_embedding": params["visual.class_embedding"],
        "embeddings.patch_embedding.weight": params["visual.conv1.weight"],
        "embeddings.position_embedding.weight": params["visual.positional_embedding"],
        "pre_layrnorm.weight": params["visual.ln_pre.weight"],
        "pre_layrnorm.bias": params["visual.ln_pre.bias"],
        "post_layernorm.weight": params["visual.ln_post.weight"],
        "post_layernorm.bias": params["visual.ln_post.bias"],
        **_blocks(params, "visual.transformer.resblocks."),
    }
    state = {f"vision_model.{name}": value for name, value in weights.items()}
    model.load_state_dict(state | {"visual_projection.weight": params["visual.proj"].T})
    return model.eval()


def _sizes(golden: GoldenFile, norm_D: Tensor) -> dict[str, int | str]:
    return {
        "hidden_size": len(norm_D),
        "intermediate_size": 4 * len(norm_D),
        "num_hidden_layers": golden.meta["layers"],
        "num_attention_heads": golden.meta["heads"],
        "projection_dim": golden.meta["embed_dim"],
        "hidden_act": "quick_gelu",
    }


def _blocks(params: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The blocks under Hugging Face's names: query, key and value apart."""
    weights = {}
    for name, value in params.items():
        if not name.startswith(prefix):
            continue
        block, part = name.removeprefix(prefix).split(".", 1)
        if part.startswith("attn.in_proj_"):
            leaf = part.removeprefix("attn.in_proj_")
            for letter, third in zip("qkv", value.chunk(3), strict=True):
                weights[f"encoder.layers.{block}.self_attn.{letter}_proj.{leaf}"] = third
        else:
            module, leaf = part.rsplit(".", 1)
            weights[f"encoder.layers.{block}.{PARTS[module]}.{leaf}"] = value
    return weights


KINDS: dict[str, Kind] = {"clip4clip_backbone_taps": replay_clip}
