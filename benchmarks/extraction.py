"""Extraction against a bare forward loop over the same batches.

The bare loop has its texts tokenised and padded beforehand and throws the hidden states away;
extraction also reads, tokenises, packs, checks, encodes, writes and syncs every layer to disk.
Enough samples for several shards: the last shard's write is all that nothing can overlap.
Target: at least 0.95 of the bare loop's samples per second.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from pictures import random_photos, random_timm_model
from report import Figure, Rounds, parser, show
from texts import random_bert_base, random_texts
from transformers import AutoModel

from cache_schema import Ragged
from extractor import ExtractConfig, extract, load_backbone, open_data, resolve_backbone
from extractor.backbones.base import Backbone

BATCH = 32


def measure(name: str, backbone: str, data: str, folder: Path, repeats: int) -> list[Figure]:
    """Samples per second of both, in turn."""
    config = ExtractConfig(
        backbone=backbone,
        data=(data,),
        splits=("train",),
        batch_size=BATCH,
        device="cpu",
        precision="float32",
        max_length=128,
    )
    loaded = load_backbone(config.backbone_config, "cpu")
    source = open_data(config.data_config)
    num_samples = source.splits["train"]
    prepared = loaded.prepare(source.samples("train", 0, num_samples))
    token_ids = prepared.inputs["token_ids"]
    assert isinstance(token_ids, Ragged)
    inputs = [
        pad(token_ids.take(chosen), prepared.rows[chosen])
        for shard in shard_orders(config, prepared.rows, loaded)
        for chosen in np.array_split(shard, range(BATCH, len(shard), BATCH))
    ]
    folder_of_model = resolve_backbone(config.backbone_config).folder
    model = AutoModel.from_pretrained(folder_of_model, dtype=torch.float32).eval()

    def bare() -> float:
        started = time.perf_counter()
        with torch.no_grad():
            for batch in inputs:
                model(**batch, output_hidden_states=True)
        return num_samples / (time.perf_counter() - started)

    runs = 0

    def ours() -> float:
        nonlocal runs
        runs += 1
        path = folder / f"{name}-{runs}"
        report = extract(config.model_copy(update={"cache": str(path)}))
        return num_samples / report.seconds

    speed = Rounds({"bare": bare, "ours": ours}, repeats)
    ratio = speed.ratio("ours", "bare")
    return [
        Figure(f"extraction/{name}, bare loop", speed["bare"], "samples/s"),
        Figure(f"extraction/{name}, unipt", speed["ours"], "samples/s"),
        Figure(f"extraction/{name}, unipt : bare loop", ratio, "x", ">= 0.95"),
    ]


def measure_images(folder: Path, repeats: int, count: int = 384) -> list[Figure]:
    """The same for images, which the bare loop finds decoded, resized and normalised."""
    photos = random_photos(folder / "photos", count)
    backbone = str(random_timm_model(folder / "vit", "vit_small_patch16_224"))
    config = ExtractConfig(
        backbone=backbone, data=(f"train={photos}",), batch_size=BATCH, device="cpu"
    )
    loaded = load_backbone(config.backbone_config, "cpu")
    samples = [{"id": at, "view": 0, "image": p} for at, p in enumerate(sorted(photos.iterdir()))]
    pixels = torch.from_numpy(loaded.prepare(samples).inputs["pixels"])
    model: Any = timm.create_model(f"local-dir:{backbone}", pretrained=True).eval()
    mean, std = (torch.tensor(model.pretrained_cfg[key])[:, None, None] for key in ("mean", "std"))
    batches = ((pixels / 255 - mean) / std).split(BATCH)

    def bare() -> float:
        started = time.perf_counter()
        with torch.no_grad():
            for batch in batches:
                model.forward_intermediates(batch, return_prefix_tokens=True, norm=False)
        return count / (time.perf_counter() - started)

    runs = 0

    def ours() -> float:
        nonlocal runs
        runs += 1
        report = extract(config.model_copy(update={"cache": str(folder / f"images-{runs}")}))
        return count / report.seconds

    speed = Rounds({"bare": bare, "ours": ours}, repeats)
    ratio = speed.ratio("ours", "bare")
    return [
        Figure("extraction/images, bare loop over decoded tensors", speed["bare"], "samples/s"),
        Figure("extraction/images, unipt", speed["ours"], "samples/s"),
        Figure("extraction/images, unipt : bare loop", ratio, "x", ">= 0.9"),
    ]


def shard_orders(config: ExtractConfig, lengths: np.ndarray, loaded: Backbone) -> list[np.ndarray]:
    """Each shard's samples, longest first: the batches that extraction makes."""
    stream = loaded.streams[0]
    sample_bytes = lengths * len(stream.layers) * stream.width * 2
    shards: list[list[int]] = []
    current: list[int] = []
    filled = 0
    for sample, size in enumerate(sample_bytes.tolist()):
        if current and filled + size > config.shard_bytes:
            shards.append(current)
            current, filled = [], 0
        current.append(sample)
        filled += size
    shards.append(current)
    return [np.array(s)[np.argsort(-lengths[s], kind="stable")] for s in shards]


def pad(token_ids: Ragged, lengths: np.ndarray) -> dict[str, torch.Tensor]:
    """A padded batch, as a tokenizer would make it."""
    ids = torch.zeros(len(lengths), int(lengths.max()), dtype=torch.long)
    for sample, length in enumerate(lengths.tolist()):
        ids[sample, :length] = torch.from_numpy(token_ids[sample].astype(np.int64))
    mask = torch.arange(ids.shape[1]) < torch.from_numpy(lengths)[:, None]
    return {"input_ids": ids, "attention_mask": mask.long()}


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--only", choices=["minilm", "bert-base", "images"], help="one backbone")
    args = options.parse_args()
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for which, count in (("minilm", 6144), ("bert-base", 768)):
            if args.only in (None, which):
                texts = f"train={random_texts(folder / f'{which}.csv', count)}"
                is_real = which == "minilm"
                backbone = which if is_real else str(random_bert_base(folder / "bert"))
                figures += measure(which, backbone, texts, folder, args.repeats)
        if args.only in (None, "images"):
            figures += measure_images(folder, args.repeats)
    show(figures, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
