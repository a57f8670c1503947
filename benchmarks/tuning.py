"""UniPT from a cache beside the ways that train through the backbone: accuracy, time, memory.

    python benchmarks/tuning.py --data DIR               SST-2 of DIR: cost, then accuracy
    python benchmarks/tuning.py --data DIR --cost        cost alone

MiniLM-L6, batches of 32 texts, AdamW. Those that train through the backbone read padded batches in
random order in float32, as their users run them on a CPU; ours train as `unipt fit` does. All for
three epochs (the probe for six, prompts for ten); the better of two learning rates is chosen by the
validation split for the first seed and kept for the others. Accuracy is that of the test split
after the epoch that was best on the validation split. Cost is measured in a process of its own for
each contestant: training steps per time, and how much its memory grows by training beyond the
loaded model (backbone included) or the opened cache.
"""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from contest import tested
from report import Figure, Rounds, parser, resident, show
from through_backbone import WAYS, TextClassifier
from torch import nn
from torch.nn import functional

from cache_schema import FeatureCache
from extractor import BackboneConfig, ExtractConfig, extract
from extractor.backbones.resolve import resolve_backbone
from trainer import FitConfig, fit

BATCH = 32
EPOCHS = {"prompts": 10, "MLP probe": 6}
CACHED: dict[str, dict[str, Any]] = {
    "UniPT": {"name": "unipt", "preset": "paper"},
    "LST": {"name": "lst", "block": "post-norm"},
    "MLP probe": {"name": "mlp-probe"},
}
CACHED_RATES = (5e-4, 1e-3)
COST_BATCHES = 24  # of those that train through the backbone


def main() -> int:
    options = parser(__doc__)
    options.set_defaults(repeats=3)
    options.add_argument("--data", required=True, metavar="DIR", help="train, dev and test .csv")
    options.add_argument("--cost", action="store_true", help="cost alone")
    options.add_argument("--only", nargs="+", choices=[*WAYS, *CACHED], default=[*WAYS, *CACHED])
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--caches", metavar="DIR", help="keep the cache; temporary if left out")
    options.add_argument("--step", nargs=2, metavar=("NAME", "CACHE"), help="cost of one, as JSON")
    args = options.parse_args()
    data = Path(args.data)
    if args.step:
        print(json.dumps(cost_of(args.step[0], args.step[1], data)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        cache = str(Path(args.caches or folder) / "sst2-minilm")
        config = ExtractConfig(
            backbone="minilm", data=(str(data),), targets=("label",), cache=cache
        )
        figures = [Figure("tuning/extraction, once", extract(config).seconds, "s")]
        figures += cost(args.only, cache, data, args.repeats)
        if not args.cost:
            for name in args.only:
                figures += accuracy(name, cache, data, args.seeds, Path(folder))
    show(figures, as_json=args.json)
    return 0


def rows(data: Path, split: str) -> tuple[list[str], torch.Tensor]:
    """Texts and labels."""
    with (data / f"{split}.csv").open(newline="") as file:
        found = [(row["text"], int(row["label"])) for row in csv.DictReader(file)]
    return [text for text, _ in found], torch.tensor([label for _, label in found])


def cost(names: list[str], cache: str, data: Path, repeats: int) -> list[Figure]:
    """Speed and memory of each, in turn."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}

    def measure(name: str) -> Callable[[], float]:
        def run() -> float:
            command = [sys.executable, __file__, "--data", str(data), "--step", name, cache]
            shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[name].append(json.loads(shown.splitlines()[-1]))
            return found[name][-1]["speed"]

        return run

    speed = Rounds({name: measure(name) for name in names}, repeats)
    figures = []
    for name in names:
        memory = statistics.median(each["memory"] for each in found[name])
        figures += [
            Figure(f"tuning/{name}, trained parameters", found[name][0]["parameters"] / 1e3, "k"),
            Figure(f"tuning/{name}, training", speed[name], "samples/s"),
            Figure(f"tuning/{name}, memory for training", memory, "MiB"),
        ]
    return figures


def cost_of(name: str, cache: str, data: Path) -> dict[str, float]:
    """Samples per second, MiB by which this process grows, and trained parameters."""
    if name in CACHED:
        opened = FeatureCache.open(cache)
        opened.lengths("tokens")  # which reads where every sample lies
        before = resident("VmRSS")
        with tempfile.TemporaryDirectory() as folder:
            report = fit(fit_config(name, 0, (1e-3,), epochs=1), opened, folder, overwrite=True)
        speed, parameters = report.samples_per_s, report.num_parameters
    else:
        texts, labels = rows(data, "train")
        model = TextClassifier(minilm(), WAYS[name], 2)
        parameters = sum(parameter.numel() for parameter in model.trained)
        before = resident("VmRSS")
        order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
        step = training_step(model, 1e-4)
        batches = order[: (COST_BATCHES + 2) * BATCH].split(BATCH)
        for batch in batches[:2]:
            step([texts[i] for i in batch.tolist()], labels[batch])
        begun = time.perf_counter()
        for batch in batches[2:]:
            step([texts[i] for i in batch.tolist()], labels[batch])
        speed = sum(map(len, batches[2:])) / (time.perf_counter() - begun)
    return {"speed": speed, "memory": resident("VmHWM") - before, "parameters": parameters}


def accuracy(name: str, cache: str, data: Path, seeds: int, folder: Path) -> list[Figure]:
    """Mean over seeds on the test split, with the rate that validation chose for the first."""
    rates = CACHED_RATES if name in CACHED else WAYS[name].rates
    train = from_cache if name in CACHED else through_backbone
    first = {rate: train(name, rate, 0, cache, data, folder) for rate in rates}
    rate = max(first, key=lambda tried: first[tried][0])
    found = [first[rate], *(train(name, rate, s, cache, data, folder) for s in range(1, seeds))]
    tests = [100 * test for _, test in found]
    spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
    return [
        Figure(f"tuning/{name}, test accuracy, mean", statistics.mean(tests), "%"),
        Figure(f"tuning/{name}, standard deviation", spread, "points"),
    ]


def from_cache(
    name: str, rate: float, seed: int, cache: str, data: Path, folder: Path
) -> tuple[float, float]:
    """Accuracy on validation and test samples."""
    del data
    run = f"{name}-{rate:g}"
    config = fit_config(name, seed, (rate,)).model_dump()
    found = tested(run, config, FeatureCache.open(cache), folder, ["accuracy"])
    report = json.loads((folder / f"{run}-{seed}" / "report.json").read_text())
    return report["metrics"]["accuracy"], found["accuracy"]


def fit_config(
    name: str, seed: int, rates: tuple[float, ...], epochs: int | None = None
) -> FitConfig:
    return FitConfig.model_validate(
        {
            "task": {"name": "classification", "target": "label"},
            "network": CACHED[name],
            "epochs": epochs or EPOCHS.get(name, 3),
            "batch_size": BATCH,
            "optimizer": {"learning_rates": rates},
            "seed": seed,
        }
    )


def through_backbone(
    name: str, rate: float, seed: int, cache: str, data: Path, folder: Path
) -> tuple[float, float]:
    """Accuracy on validation and test samples, of the epoch that was best on the former."""
    del cache, folder
    torch.manual_seed(seed)
    (texts, labels), validation, test = (rows(data, split) for split in ("train", "dev", "test"))
    model = TextClassifier(minilm(), WAYS[name], 2)
    num_epochs = EPOCHS.get(name, 3)
    step = training_step(model, rate, num_epochs * -(-len(texts) // BATCH))
    found, begun = [], time.perf_counter()
    for _ in range(num_epochs):
        for batch in torch.randperm(len(texts)).split(BATCH):
            step([texts[i] for i in batch.tolist()], labels[batch])
        found.append((correct(model, *validation), correct(model, *test)))
    best = max(found, key=lambda each: each[0])
    print(
        f"{name} seed {seed}: learning rate {rate:g}, validation / test "
        f"{best[0]:.4f} / {best[1]:.4f}, {time.perf_counter() - begun:.0f} s",
        file=sys.stderr,
    )
    return best


def training_step(
    model: TextClassifier, rate: float, num_steps: int | None = None
) -> Callable[[list[str], torch.Tensor], None]:
    """One step of AdamW; the rate rises for a tenth of the steps and then falls linearly."""
    optimizer = torch.optim.AdamW(model.trained, lr=rate, fused=True)
    total = num_steps or 1_000_000

    def share(step: int) -> float:
        return min((step + 1) / (0.1 * total), (total - step) / (0.9 * total))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    model.train()

    def step(texts: list[str], labels: torch.Tensor) -> None:
        functional.cross_entropy(model(texts), labels).backward()
        nn.utils.clip_grad_norm_(model.trained, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    return step


@torch.no_grad()
def correct(model: TextClassifier, texts: list[str], labels: torch.Tensor) -> float:
    """Accuracy in eval mode."""
    model.eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    hits = 0
    for start in range(0, len(order), 64):
        chosen = order[start : start + 64]
        guessed = model([texts[i] for i in chosen]).argmax(1)
        hits += int((guessed == labels[chosen]).sum())
    model.train()
    return hits / len(texts)


def minilm() -> Path:
    """The folder of the packaged weights."""
    return resolve_backbone(BackboneConfig(name="minilm")).folder


if __name__ == "__main__":
    sys.exit(main())
