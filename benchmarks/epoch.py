"""One training epoch from the cache against the backbone in the loop; same network, same samples.

BERT-base size, texts of 16 to 48 tokens (32 on average), UniPT with AdamW, batches of 32.

- cached: what `unipt fit` runs: bfloat16 where the hardware gains from it, rows without padding;
- online: the best that can be done without a cache: backbone in the same precision without
  gradients, batches sorted by length so that little is padded, the same training step;
- authors: as the authors' code trains its text encoder: float32, padded batches in random order,
  the backbone in the loop and in train mode, so with its dropout (as their ITR code does), UniPT
  layer by layer on padded tensors;
- authors, eval mode: the same without the backbone's dropout.

Targets: cached >= 6 x online and >= 15 x authors.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from padded_loop import PaddedLoop, mean_of_tokens
from report import Figure, Rounds, parser, show
from texts import random_bert_base, random_texts
from torch import nn
from torch.nn import functional

from cache_schema import FeatureBatch, FeatureCache, keep_freed_memory
from extractor import BackboneConfig, ExtractConfig, extract, load_backbone, open_data
from trainer.config import FitConfig
from trainer.data import open_data as open_fit_data
from trainer.device import resolve_precision
from trainer.loader import BatchLoader
from trainer.model import build_model
from trainer.order import epoch_order
from trainer.processes import make_accelerators
from trainer.tasks import SETTLED, TargetReader
from trainer.trial import Trial

BATCH = 32
CPU = torch.device("cpu")


def make_step(
    config: FitConfig, cache: FeatureCache, folder: Path
) -> tuple[Callable[[FeatureBatch], None], torch.dtype, TargetReader]:
    """The training step of `fit` with fresh weights."""
    dtype = resolve_precision(config.precision, CPU)
    data = open_fit_data(config, cache, 1)
    (accelerator,) = make_accelerators(1, CPU, dtype, folder)
    model = build_model(config, data.task, [cache.manifest.streams])
    trial = Trial(5e-4, accelerator, model, config.optimizer)

    def step(batch: FeatureBatch) -> None:
        trial.backward(batch, data.task, SETTLED)
        trial.update(1.0)
        trial.guards.clear()

    return step, dtype, data.read_targets


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=256, help="texts in an epoch (256)")
    options.add_argument("--precision", choices=["float32", "bfloat16"], help="else as fit chooses")
    args = options.parse_args()
    args.precision = args.precision or str(resolve_precision("auto", CPU)).removeprefix("torch.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_bert_base(folder / "bert")
        texts = random_texts(folder / "texts.csv", args.samples)
        extract(
            ExtractConfig(
                backbone=str(folder / "bert"),
                data=(f"train={texts}",),
                cache=str(folder / "cache"),
                device="cpu",
                encoding="bfloat16",
            )
        )
        figures = measure(folder, args.precision, args.repeats)
    show(figures, as_json=args.json)
    return 0


def measure(folder: Path, precision: str, repeats: int) -> list[Figure]:
    contestants = {
        "cached": Apart(cached_epoch, folder, precision),
        "online": Apart(online_epoch, folder, precision),
        "authors": Apart(authors_epoch, folder, True),
        "authors, eval mode": Apart(authors_epoch, folder, False),
    }
    speed = Rounds(contestants, repeats)
    for contestant in contestants.values():
        contestant.close()
    return [
        Figure(f"epoch/cached, {precision}", speed["cached"], "samples/s"),
        Figure(f"epoch/online, {precision}, sorted by length", speed["online"], "samples/s"),
        Figure("epoch/as the authors, float32, padded", speed["authors"], "samples/s"),
        Figure("epoch/as the authors, eval mode", speed["authors, eval mode"], "samples/s"),
        Figure("epoch/cached : online", speed.ratio("cached", "online"), "x", ">= 6"),
        Figure("epoch/cached : authors", speed.ratio("cached", "authors"), "x", ">= 15"),
        Figure(
            "epoch/cached : authors, eval mode", speed.ratio("cached", "authors, eval mode"), "x"
        ),
    ]


class Apart:
    """A contestant in a process of its own, as people run it.

    So neither the memory settings nor the threads of one help or harm another.
    """

    def __init__(self, make: Callable[..., Callable[[], float]], *settings: object) -> None:
        self._process = get_context("spawn").Pool(1, _set_up, (make, settings))

    def __call__(self) -> float:
        return self._process.apply(_measure_here)

    def close(self) -> None:
        """End its process."""
        self._process.close()
        self._process.join()


_here: list[Callable[[], float]] = []


def _set_up(make: Callable[..., Callable[[], float]], settings: tuple[object, ...]) -> None:
    _here.append(make(*settings))


def _measure_here() -> float:
    return _here[0]()


def fit_config(precision: str) -> FitConfig:
    return FitConfig.model_validate(
        {
            "task": {"name": "classification", "target": "label"},
            "device": "cpu",
            "precision": precision,
        }
    )


def read_texts(folder: Path) -> Sequence[Mapping[str, Any]]:
    data = (f"train={folder / 'texts.csv'}",)
    source = open_data(ExtractConfig(backbone=str(folder / "bert"), data=data).data_config)
    return source.samples("train", 0, source.splits["train"])


def cached_epoch(folder: Path, precision: str) -> Callable[[], float]:
    keep_freed_memory()  # as `fit` does
    cache = FeatureCache.open(str(folder / "cache"))
    samples = np.arange(len(cache))
    step, dtype, read_targets = make_step(fit_config(precision), cache, folder)
    loader = BatchLoader(cache, read_targets, device=CPU, dtype=dtype)
    epoch = 0

    def run() -> float:
        nonlocal epoch
        order = samples[epoch_order(len(samples), seed=0, epoch=epoch, rank=0, world_size=1)]
        epoch += 1
        started = time.perf_counter()
        with loader.batches(order, BATCH) as batches:
            for batch in batches:
                assert isinstance(batch, FeatureBatch)
                step(batch)
        return len(samples) / (time.perf_counter() - started)

    return run


def online_epoch(folder: Path, precision: str) -> Callable[[], float]:
    keep_freed_memory()
    cache, rows = FeatureCache.open(str(folder / "cache")), read_texts(folder)
    step, dtype, read_targets = make_step(fit_config(precision), cache, folder)
    name = str(dtype).removeprefix("torch.")
    model = load_backbone(BackboneConfig(name=str(folder / "bert"), precision=name), "cpu")

    def run() -> float:
        started = time.perf_counter()
        prepared = model.prepare(rows)
        order = prepared.longest_first()
        for chosen in np.array_split(order, range(BATCH, len(order), BATCH)):
            batch = model.run(prepared, chosen)
            step(FeatureBatch(batch.streams, batch.sample_ids, read_targets(chosen)))
        return len(rows) / (time.perf_counter() - started)

    return run


def authors_epoch(folder: Path, train_mode: bool) -> Callable[[], float]:
    from transformers import AutoModel, AutoTokenizer

    cache, rows = FeatureCache.open(str(folder / "cache")), read_texts(folder)
    (stream,) = cache.manifest.streams
    labels = open_fit_data(fit_config("float32"), cache, 1).read_targets
    model = AutoModel.from_pretrained(folder / "bert", dtype=torch.float32).train(train_mode)
    tokenizer = AutoTokenizer.from_pretrained(folder / "bert")
    network = PaddedLoop(len(stream.layers), stream.width, stream.width // 2)
    trained = nn.ModuleList([network, nn.Linear(stream.width, 2)])
    optimizer = torch.optim.AdamW(trained.parameters(), lr=5e-4, fused=True)
    order = np.random.default_rng(0).permutation(len(rows))

    def run() -> float:
        started = time.perf_counter()
        for chosen in np.array_split(order, range(BATCH, len(order), BATCH)):
            inputs = tokenizer(
                [rows[row]["text"] for row in chosen], padding=True, return_tensors="pt"
            )
            with torch.no_grad():
                states = model(**inputs, output_hidden_states=True).hidden_states
            mask = inputs["attention_mask"].float()
            pooled = mean_of_tokens(network(states, mask), mask)
            loss = functional.cross_entropy(trained[1](pooled), labels(chosen)["label"])
            loss.backward()
            nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return len(rows) / (time.perf_counter() - started)

    return run


if __name__ == "__main__":
    sys.exit(main())
