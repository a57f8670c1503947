"""One training epoch from the cache against the backbone in the loop; same network, same samples.

BERT-base size, texts of 16 to 48 tokens (32 on average), UniPT with AdamW, batches of 32.

- cached: what `unipt fit` runs: bfloat16 where the hardware gains from it, rows without padding;
- online: the best that can be done without a cache: backbone in the same precision without
  gradients, batches sorted by length so that little is padded, the same training step;
- authors: as the authors' code trains: float32, padded batches in random order, the backbone in
  the loop (in eval mode, which favours it: they run it in train mode).

Targets: cached >= 6 x online and >= 15 x authors.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from report import Figure, interleaved, parser, show
from texts import random_bert_base, random_texts

from cache_schema import FeatureBatch, FeatureCache, RowLayout, StreamBatch
from extractor import BackboneConfig, ExtractConfig, extract, load_backbone, open_data
from trainer.config import FitConfig
from trainer.data import open_data as open_fit_data
from trainer.device import resolve_precision
from trainer.loader import BatchLoader
from trainer.model import build_model
from trainer.order import epoch_order
from trainer.processes import make_accelerators
from trainer.tasks import SETTLED
from trainer.trial import Trial

BATCH = 32
CPU = torch.device("cpu")


def make_step(
    config: FitConfig, cache: FeatureCache, precision: str, folder: Path
) -> tuple[Callable[[FeatureBatch], None], torch.dtype, object]:
    """The training step of `fit` in this precision, with fresh weights."""
    dtype = resolve_precision(precision, CPU)
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
    options.add_argument("--encoding", default="bfloat16", help="of the cache (bfloat16)")
    options.add_argument("--precision", choices=["float32", "bfloat16"], help="else as fit chooses")
    args = options.parse_args()
    args.precision = args.precision or str(resolve_precision("auto", CPU)).removeprefix("torch.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone = str(random_bert_base(folder / "bert"))
        texts = random_texts(folder / "texts.csv", args.samples)
        path = str(folder / "cache")
        extract(
            ExtractConfig(
                backbone=backbone,
                data=(f"train={texts}",),
                cache=path,
                device="cpu",
                encoding="bfloat16",
            )
        )
        figures = measure(backbone, texts, FeatureCache.open(path), folder, args)
    show(figures, as_json=args.json)
    return 0


def measure(backbone: str, texts: Path, cache: FeatureCache, folder: Path, args) -> list[Figure]:
    config = FitConfig.model_validate(
        {"task": {"name": "classification", "target": "label"}, "device": "cpu"}
    )
    samples = np.arange(len(cache))
    source = open_data(ExtractConfig(backbone=backbone, data=(f"train={texts}",)).data_config)
    rows = source.samples("train", 0, len(samples))
    contestants = {
        "cached": cached_epoch(config, cache, samples, folder, args.precision),
        "online": online_epoch(config, cache, backbone, rows, folder, args.precision),
        "authors": authors_epoch(config, cache, backbone, rows, folder),
    }
    speed = interleaved(contestants, args.repeats)
    return [
        Figure(f"epoch/cached, {args.precision}", speed["cached"], "samples/s"),
        Figure(f"epoch/online, {args.precision}, sorted by length", speed["online"], "samples/s"),
        Figure("epoch/as the authors, float32, padded", speed["authors"], "samples/s"),
        Figure("epoch/cached : online", speed["cached"] / speed["online"], "x", ">= 6"),
        Figure("epoch/cached : authors", speed["cached"] / speed["authors"], "x", ">= 15"),
    ]


def cached_epoch(
    config: FitConfig, cache: FeatureCache, samples: np.ndarray, folder: Path, precision: str
) -> Callable[[], float]:
    step, dtype, read_targets = make_step(config, cache, precision, folder)
    loader = BatchLoader(cache, read_targets, device=CPU, dtype=dtype)
    epoch = 0

    def run() -> float:
        nonlocal epoch
        order = samples[epoch_order(len(samples), seed=0, epoch=epoch, rank=0, world_size=1)]
        epoch += 1
        started = time.perf_counter()
        with loader.batches(order, BATCH) as batches:
            for batch in batches:
                step(batch)
        return len(samples) / (time.perf_counter() - started)

    return run


def online_epoch(
    config: FitConfig,
    cache: FeatureCache,
    backbone: str,
    rows: list,
    folder: Path,
    precision: str,
) -> Callable[[], float]:
    step, dtype, read_targets = make_step(config, cache, precision, folder)
    name = str(dtype).removeprefix("torch.")
    model = load_backbone(BackboneConfig(name=backbone, precision=name), "cpu")

    def run() -> float:
        started = time.perf_counter()
        prepared = model.prepare(rows)
        order = prepared.longest_first()
        for chosen in np.array_split(order, range(BATCH, len(order), BATCH)):
            batch = model.run(prepared, chosen)
            step(FeatureBatch(batch.streams, batch.sample_ids, read_targets(chosen)))
        return len(rows) / (time.perf_counter() - started)

    return run


def authors_epoch(
    config: FitConfig, cache: FeatureCache, backbone: str, rows: list, folder: Path
) -> Callable[[], float]:
    from transformers import AutoModel, AutoTokenizer

    step, _, read_targets = make_step(config, cache, "float32", folder)
    model = AutoModel.from_pretrained(backbone, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    order = np.random.default_rng(0).permutation(len(rows))

    def run() -> float:
        started = time.perf_counter()
        for chosen in np.array_split(order, range(BATCH, len(order), BATCH)):
            texts = [rows[row]["text"] for row in chosen]
            inputs = tokenizer(texts, padding=True, return_tensors="pt")
            with torch.no_grad():
                states = model(**inputs, output_hidden_states=True).hidden_states
            stacked = torch.stack(states, dim=2).flatten(0, 1)
            # Every padded position is a row that the network computes, as the authors' does.
            layout = RowLayout.from_lengths([inputs["input_ids"].shape[1]] * len(chosen))
            stream = StreamBatch(stacked, layout)
            step(FeatureBatch({"tokens": stream}, torch.from_numpy(chosen), read_targets(chosen)))
        return len(rows) / (time.perf_counter() - started)

    return run


if __name__ == "__main__":
    sys.exit(main())
