"""Caches with targets that a small network can learn in a few epochs."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_caches import make_manifest, states_of, write_cache

from cache_schema import FeatureCache, Ragged, SplitSpec, TargetSpec
from trainer import FitConfig, with_overrides

SPLITS = {"train": 48, "validation": 16, "test": 16}


def target_cache(
    path: Path,
    spec: TargetSpec,
    values: np.ndarray | Ragged,
    *,
    splits: dict[str, int] | None = None,
    signal: np.ndarray | None = None,
    change: Any = None,
    encoding: str = "float32",
    seed: int = 0,
) -> FeatureCache:
    """A cache of one target.

    `signal` (samples,) is added to feature 0 of every token and layer, so that it can be found.
    `change` is called with the states before they are written.
    """
    sizes = splits or SPLITS
    lengths = np.random.default_rng(seed).integers(1, 9, sum(sizes.values()))
    stops = np.cumsum(list(sizes.values())).tolist()
    manifest = make_manifest(
        lengths,
        encoding_name=encoding,
        samples_per_shard=20,
        targets=(spec,),
        splits=tuple(
            SplitSpec(name=name, start=stop - size, stop=stop)
            for (name, size), stop in zip(sizes.items(), stops, strict=True)
        ),
        seed=seed,
    )
    states = states_of(lengths, 3, 8, seed=seed)
    if signal is not None:
        states[:, :, 0] += torch.from_numpy(np.repeat(signal, lengths)).float()[:, None]
    if change is not None:
        change(states)
    write_cache(path, manifest, states, lengths, {spec.name: values})
    return FeatureCache.open(path)


def label_cache(path: Path, **options: Any) -> FeatureCache:
    """Two classes, told apart by feature 0."""
    labels = np.arange(sum((options.get("splits") or SPLITS).values())) % 2
    spec = TargetSpec(name="label", kind="category", classes=("neg", "pos"))
    return target_cache(path, spec, labels, signal=labels * 4.0 - 2, **options)


def number_cache(path: Path, **options: Any) -> FeatureCache:
    """A number that is linear in feature 0."""
    values = np.random.default_rng(1).normal(100, 20, sum(SPLITS.values()))
    spec = TargetSpec(name="score", kind="number")
    return target_cache(path, spec, values, signal=(values - 100) / 10, **options)


def tags_cache(path: Path, **options: Any) -> FeatureCache:
    """Any of two tags per sample: the first is told by feature 0, the second by chance."""
    count = sum(SPLITS.values())
    first = np.arange(count) % 2
    second = np.random.default_rng(2).integers(0, 2, count)
    rows = [[0] * a + [1] * b for a, b in zip(first.tolist(), second.tolist(), strict=True)]
    spec = TargetSpec(name="tags", kind="categories", classes=("odd", "lucky"))
    values = Ragged.from_rows(rows, np.int64)
    return target_cache(path, spec, values, signal=first * 4.0 - 2, **options)


def settings(*overrides: str, target: str = "label", task: str = "classification") -> FitConfig:
    """Quick settings on the CPU in float32."""
    config = FitConfig.model_validate(
        {
            "task": {"name": task, "target": target},
            "optimizer": {"learning_rates": [0.02]},
            "epochs": 4,
            "batch_size": 8,
            "device": "cpu",
            "precision": "float32",
        }
    )
    return with_overrides(config, overrides)


class Recorder:
    """A progress that keeps what was said, and may act after a step."""

    def __init__(self, after_samples: int | None = None, action: Any = None) -> None:
        self.lines: list[str] = []
        self.facts: list[dict[str, float]] = []
        self.done = 0
        self.total = 0
        self._after = after_samples
        self._action = action

    def say(self, text: str) -> None:
        self.lines.append(text)

    @contextmanager
    def meter(self, label: str, total: int, unit: str, done: int = 0):
        self.total, self.done = total, done
        yield self

    def advance(self, amount: int, **facts: float) -> None:
        self.done += amount
        self.facts.append(facts)
        if self._after is not None and self.done >= self._after:
            self._after = None
            self._action()


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    """The stored best weights."""
    from safetensors.torch import load_file

    return load_file(run_dir / "model.safetensors")


def assert_same_weights(run: Path, other: Path) -> None:
    """The kept weights are the same, bit for bit."""
    mine, theirs = weights_of(run), weights_of(other)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def assert_same_end(run: Path, other: Path) -> None:
    """Weights, optimizers and best epochs are the same after the last step, bit for bit."""
    assert_same_weights(run, other)
    mine, theirs = (
        torch.load(max((folder / "checkpoints").glob("step-*.pt")), weights_only=True)
        for folder in (run, other)
    )
    assert (mine["step"], mine["epochs_done"]) == (theirs["step"], theirs["epochs_done"])
    torch.testing.assert_close(mine["trials"], theirs["trials"], rtol=0, atol=0)


def logged(run_dir: Path, split: str) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` of one kind."""
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def config_of(run_dir: Path) -> dict[str, Any]:
    """The stored `config.json`."""
    document: dict[str, Any] = json.loads((run_dir / "config.json").read_text())
    return document
