"""Each recipe made small: its data in the real files, and tiny backbones of the real classes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from formats_on_disk import (
    write_gqa,
    write_karpathy,
    write_msrvtt,
    write_msvd,
    write_refexp,
    write_vqa2,
)
from scenes import COLOURS, THINGS, captions_of, scene
from tiny_library import save_tiny_decoder, save_tiny_dual
from tiny_models import TIMM, save_tiny_clip_vil, save_tiny_mdetr, save_tiny_timm


@dataclass(frozen=True)
class Recipe:
    """How a recipe is made small.

    Attributes:
        write: Writes its data into a folder, and gives `data.root`.
        backbones: Stage to the backbone that takes the place of the large one.
        settings: Other `--set`; `{NAME}` stands for the folder of that backbone.
    """

    write: Callable[[Path], Path]
    backbones: dict[str, str]
    settings: Sequence[str] = ()


def write_photos(folder: Path) -> Path:
    """Folders of images by split and class; a class is a colour."""
    for number in range(48):
        shown = scene(number)
        part = "test" if number % 6 == 5 else "train"
        path = folder / part / shown.things[0].split()[0] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shown.draw().save(path)
    return folder


def write_reviews(folder: Path) -> Path:
    """A csv whose labels the first word gives away."""
    path = folder / "reviews.csv"
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(48):
            word, label = (("Once", "pos"), ("Please", "neg"))[number % 2]
            writer.writerow([f"{word} the old bridge was gone by {number}", label])
    return path


IMAGES = ("extract.encoding=float32",)
VSE = (
    "extract.images.encoding=float32",
    "extract.images.image_size=[64,64]",
    "fit.unipt.network.width=16",
    "fit.unipt.task.text_network.width=16",
    "fit.lst.task.width=16",
    # Faster, all images become one: a ladder starts with small numbers, and then the bias counts.
    "fit.lst.optimizer.learning_rates=[1.0e-3]",
)
CLIP = ("extract.videos.frames=4", "fit.lst.task.width=12")
CLIP_VIL = [
    setting
    for run in ("unipt", "lst")
    for setting in (
        f"fit.{run}.task.head_weights={{clip-vil}}/heads.safetensors",
        f"fit.{run}.task.head_answers={{clip-vil}}/all_ans.json",
        f"fit.{run}.accumulate=2",
    )
]
MDETR = [
    setting
    for run in ("unipt", "lst")
    for setting in (
        f"fit.{run}.task.head_weights={{mdetr}}/heads.safetensors",
        # The average of a thousand steps is still the start after ten.
        f"fit.{run}.optimizer.ema_decay=0.5",
    )
]
RECIPES = {
    "bert-base-text-classification": Recipe(write_reviews, {"": "bert"}, ["extract.max_length=16"]),
    "llm-text-classification": Recipe(write_reviews, {"": "qwen2"}, ["extract.max_length=16"]),
    "image-classification-vit": Recipe(write_photos, {"": "class token"}, IMAGES),
    "image-classification-cnn": Recipe(write_photos, {"": "resnet"}, IMAGES),
    "vse-infinity-f30k": Recipe(write_karpathy, {"images": "resnet", "texts": "bert"}, VSE),
    "vse-infinity-coco": Recipe(
        lambda folder: write_karpathy(folder, "coco"),
        {"images": "resnet", "texts": "bert"},
        VSE,
    ),
    "clip4clip-msrvtt": Recipe(write_msrvtt, {"videos": "clip", "texts": "clip"}, CLIP),
    "clip4clip-msvd": Recipe(write_msvd, {"videos": "clip", "texts": "clip"}, CLIP),
    "clip-vil-vqa": Recipe(write_vqa2, {"": "clip-vil"}, CLIP_VIL),
    "clip-vil-gqa": Recipe(write_gqa, {"": "clip-vil"}, CLIP_VIL),
    "mdetr-refcoco": Recipe(write_refexp, {"": "mdetr"}, MDETR),
    "mdetr-refcoco+": Recipe(lambda folder: write_refexp(folder, "refcoco+"), {"": "mdetr"}, MDETR),
    "mdetr-refcocog": Recipe(lambda folder: write_refexp(folder, "refcocog"), {"": "mdetr"}, MDETR),
}


def make_clip_vil(folder: Path) -> Path:
    """With the list of the answers that its head was trained on, some of them ours."""
    save_tiny_clip_vil(folder)
    answers = ["yes", "no", *COLOURS, "a", "b", "c", "d", "e"]
    listed = [{"ans": answer, "dsets": ["vqa"]} for answer in answers]
    (folder / "all_ans.json").write_text(json.dumps(listed))
    return folder


def make_bert(folder: Path) -> Path:
    """With the words of the captions: a tokenizer that is trained splits them by chance."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = " ".join(text for thing in THINGS for text in captions_of(thing))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = sorted({*re.findall(r"[a-z]+|[.,]", f"{words} please once".lower())})
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join([*special, *known]) + "\n")
    tokenizer = BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=32)
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
            initializer_range=0.2,
        )
        BertModel(config).eval().save_pretrained(folder)
    return folder


def make_resnet(folder: Path) -> Path:
    """As timm starts it, so that its maps are of a size that a network can learn from."""
    import timm
    from safetensors.torch import save_file

    save_tiny_timm(folder, "resnet")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = timm.create_model("resnet18", num_classes=5, **TIMM["resnet"].options)
    save_file(model.state_dict(), folder / "model.safetensors")
    return folder


MAKERS: dict[str, Callable[[Path], Path]] = {
    "bert": make_bert,
    "clip": lambda folder: save_tiny_dual(folder, "clip"),
    "clip-vil": make_clip_vil,
    "mdetr": save_tiny_mdetr,
    "qwen2": lambda folder: save_tiny_decoder(folder, "qwen2"),
    "resnet": make_resnet,
    "class token": lambda folder: save_tiny_timm(folder, "class token"),
}
