"""What each encoding costs and loses: bytes, error, speed, and accuracy after training.

Hidden states are those of MiniLM on SST-2 and of a ViT-tiny on CIFAR-10 at 96 pixels. Errors are
root mean squares relative to the states; of random states with eight channels that are 30 to 1,000
times as large as the others, as language models have, those of the other channels. Encoding from
and decoding to float32 run on one thread. Reading goes from a warm page cache to float32, every
byte checked before. Accuracy: UniPT at one learning rate, the same three seeds on every encoding.
Targets: int8 within 0.3 and int4 within 1 point of float16.

    python benchmarks/encodings.py --data DIR --weights VIT.safetensors

DIR holds the folders sst2 and cifar10 of `accuracy.py`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from contest import Contestant, figures, scores
from real_data import add_options, backbone_folders, make_cache
from report import Figure, Rounds, parser, show
from torch import Tensor

from cache_schema import (
    Encoding,
    EncodingName,
    FeatureCache,
    decode,
    encode,
    encoding,
    rounded,
)
from extractor import ExtractConfig, extract

ALL: tuple[EncodingName, ...] = ("float32", "bfloat16", "float16", "int8", "int4")
TRAINED: tuple[EncodingName, ...] = ("float16", "int8", "int4")
TARGETS = {"int8": ">= -0.3", "int4": ">= -1"}
ROWS, BATCH, TEXTS = 2000, 64, 384


@dataclass(frozen=True)
class Study:
    """One data set under one backbone, and the UniPT that is trained on it."""

    data: str
    backbone: str
    settings: Mapping[str, Any]
    unipt: Contestant


STUDIES = {
    "sst2": Study(
        "sst2", "minilm", {}, Contestant({"name": "unipt", "preset": "paper"}, 3, (1e-3,))
    ),
    "cifar10": Study(
        "cifar10",
        "vit_tiny_patch16_224",
        {"image_size": (96, 96), "image_column": "image"},
        Contestant({"name": "unipt", "preset": "paper", "reduction": 4}, 2, (1e-3,)),
    ),
}


def outliers() -> tuple[Tensor, Tensor]:
    """(N, L, D) random states, eight of whose channels are far larger, and which are the others."""
    generator = torch.Generator().manual_seed(0)
    values_NLD = torch.randn(ROWS, 6, 1024, generator=generator)
    chosen = torch.randperm(1024, generator=generator)
    values_NLD[..., chosen[:8]] *= torch.logspace(1.5, 3, 8)
    return values_NLD, chosen[8:]


def errors(source: str, values: Tensor, channels: Tensor | None = None) -> list[Figure]:
    """Root mean square of what some channels lose, relative to theirs; of all if None."""
    found = []
    for name in ALL:
        lost, kept = rounded(values, encoding(name)).float() - values, values
        if channels is not None:
            lost, kept = lost[..., channels], kept[..., channels]
        found.append(Figure(f"error/{source}, {name}", 100 * float(lost.norm() / kept.norm()), "%"))
    return found


def coding_speeds(values: Tensor, repeats: int) -> list[Figure]:
    """Numbers a second from float32 states to stored ones and back, on one thread."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    encoders: dict[str, Callable[[], float]] = {}
    decoders: dict[str, Callable[[], float]] = {}
    for name in ALL:
        stored = encoding(name)
        encoders[name] = rate(values.numel(), partial(encode, values, stored))
        parts = encode(values, stored).parts
        decoders[name] = rate(values.numel(), partial(to_float32, parts, stored, values.shape[-1]))
    del decoders["float32"]
    shown = []
    for what, contestants in (("encode", encoders), ("decode", decoders)):
        speed = Rounds(contestants, repeats)
        shown += [Figure(f"{what}/{n}", speed[n] / 1e9, "G numbers/s") for n in contestants]
    torch.set_num_threads(usual)
    return shown


def to_float32(parts: tuple[Tensor, ...], stored: Encoding, width: int) -> Tensor:
    """What a network computes with on a CPU."""
    return decode(parts, stored, width).float()


def rate(amount: int, work: Callable[[], object]) -> Callable[[], float]:
    """A contestant: how much of something is done in a second."""

    def measure() -> float:
        started = time.perf_counter()
        work()
        return amount / (time.perf_counter() - started)

    return measure


def reading_speeds(caches: Mapping[str, FeatureCache], repeats: int) -> list[Figure]:
    """Tokens a second from random samples to float32 in memory, side by side."""
    (stream,) = caches["float16"].manifest.streams
    count = min(4096, len(caches["float16"]))
    order = np.random.default_rng(1).permutation(len(caches["float16"]))[:count]
    tokens = int(caches["float16"].lengths(stream.name)[order].sum())

    def read(cache: FeatureCache) -> None:
        for batch in np.array_split(order, -(-count // BATCH)):
            cache.gather(batch, decode=False).to("cpu", dtype=torch.float32)

    speed = Rounds({n: rate(tokens, partial(read, cache)) for n, cache in caches.items()}, repeats)
    shown = []
    for name, cache in caches.items():
        num_bytes = sum(receipt.num_bytes for receipt in cache.receipts.values())
        per_token = num_bytes / int(cache.lengths(stream.name).sum())
        shown.append(Figure(f"size/{name}, all arrays", per_token, "bytes per token"))
        shown.append(Figure(f"read/{name}", speed[name] / 1e6, "M tokens/s"))
    return shown + [Figure(f"read/{n} : float16", speed.ratio(n, "float16"), "x") for n in TARGETS]


def extraction_speeds(data: Path, folder: Path, repeats: int) -> list[Figure]:
    """Texts a second through MiniLM into caches, side by side."""
    texts = folder / "texts.csv"
    lines = (data / "train.csv").read_text().splitlines()[: TEXTS + 1]
    texts.write_text("\n".join(lines) + "\n")
    runs = 0

    def run(name: str) -> float:
        nonlocal runs
        runs += 1
        asked = {"backbone": "minilm", "data": (str(texts),), "encoding": name}
        config = ExtractConfig.model_validate({**asked, "cache": str(folder / f"timed-{runs}")})
        return TEXTS / extract(config).seconds

    speed = Rounds({name: partial(run, name) for name in TRAINED}, repeats)
    shown = [Figure(f"extract/{name}", speed[name], "texts/s") for name in TRAINED]
    return shown + [
        Figure(f"extract/{n} : float16", speed.ratio(n, "float16"), "x", ">= 0.95") for n in TARGETS
    ]


def accuracies(
    name: str, study: Study, caches: Mapping[str, FeatureCache], seeds: int, folder: Path
) -> list[Figure]:
    """Mean test accuracy after training on each encoding."""
    settings = {"task": {"name": "classification", "target": "label"}}
    found = {
        stored: scores(
            f"{name}-{stored}",
            study.unipt,
            cache,
            folder,
            metric="accuracy",
            seeds=range(seeds),
            settings=settings,
        )
        for stored, cache in caches.items()
    }
    shown = [figure for stored in found for figure in figures(f"{name}/{stored}", found[stored])]
    exact = statistics.mean(found["float16"])
    return shown + [
        Figure(f"{name}/{n} - float16", statistics.mean(found[n]) - exact, "points", target)
        for n, target in TARGETS.items()
    ]


def main() -> int:
    options = parser(__doc__)
    add_options(options, "folder of the data sets")
    args = options.parse_args()
    shown: list[Figure] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        backbones = backbone_folders(args.weights, folder / "backbones")
        for name, study in STUDIES.items():
            asked = {
                "backbone": backbones.get(study.backbone, study.backbone),
                "targets": ("label",),
                **study.settings,
            }
            caches: dict[str, FeatureCache] = {
                stored: make_cache(
                    f"{name}-{stored}",
                    Path(args.data, study.data),
                    {**asked, "encoding": stored},
                    every=args.every * (8 if stored == "float32" else 1),
                    folder=Path(args.caches or folder / "caches"),
                )
                for stored in ("float32", *TRAINED)
            }
            chosen = np.random.default_rng(0).permutation(len(caches["float32"]))[:400]
            (stream,) = caches.pop("float32").gather(chosen).streams.values()
            values = stream.values[:ROWS].clone()
            shown += errors(name, values)
            if name == "sst2":
                shown += reading_speeds(caches, args.repeats)
                shown += coding_speeds(values, args.repeats)
                shown += extraction_speeds(Path(args.data, "sst2"), folder, args.repeats)
            if args.seeds:
                shown += accuracies(name, study, caches, args.seeds, folder / "runs")
        shown += errors("beside outliers", *outliers())
    show(shown, as_json=args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
