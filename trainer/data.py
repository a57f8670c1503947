"""Which samples a run trains and validates on, and what their targets are."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from cache_schema import CacheError, FeatureCache

from .config import FitConfig
from .errors import ConfigError
from .order import held_out
from .sources import Caches, Source, open_source
from .tasks import RetrievalConfig, TargetError, TargetReader, Task, TaskConfig
from .tasks.base import name_samples
from .tasks.labels import Labels, label_column, label_names


@dataclass(frozen=True)
class FitData:
    """The samples of one run.

    A sample is a number, or for pairs two numbers: (n, 2) item and text.

    Attributes:
        source: The cache, or the two joined ones.
        task: Has seen the training targets.
        train: Samples that are trained on, each as it is.
        views: How many views training draws from: of each sample, or of each item and each text.
        validation: Samples that the best checkpoint is chosen on, never drawn in training.
        validation_name: The split's name, or a phrase that says what was held out.
        read_targets: Of both, in all views.
        notes: What was left out, in words.
    """

    source: Source
    task: Task
    train: np.ndarray
    views: tuple[int, ...]
    validation: np.ndarray
    validation_name: str
    read_targets: TargetReader
    notes: tuple[str, ...] = ()


def open_data(config: FitConfig, caches: Caches, world_size: int) -> FitData:
    """Divide the samples and learn the task's classes or scale.

    Raises:
        CacheError: A split or the target is not in the cache.
        ConfigError: Training and validation share samples, or have too few.
        TargetError: The target does not suit the task.
    """
    source = open_source(config.task, caches)
    notes = _notes(source)
    train = labelled(config.task, source, config.train_split, notes)
    train, validation, name, kept = _divide(config, source, train, notes)
    # Ranks read equal parts, and correlations need two samples.
    needed = max(2, world_size)
    if len(train) < needed:
        raise ConfigError(
            f"split {config.train_split!r}",
            [f"has {len(train)} sample(s) to train on, needed at least {needed}. Extract more"],
        )
    if len(validation) < needed:
        found = f"has {len(validation)} sample(s), needed at least {needed}"
        advice = _how_to_validate(config, source, train, validation, kept, needed)
        raise ConfigError(f"split {name!r}", [f"{found}. {advice}"])
    others = {name: validation}
    for split in source.split_names:
        if split not in (config.train_split, name):
            # A cache that is still being written may have nothing of a split yet.
            with suppress(CacheError, TargetError):
                others[split] = labelled(config.task, source, split, [])
    try:
        task = config.task.learn(source, train, others)
    except TargetError as error:
        # What is neither trained nor chosen on is no obstacle; `evaluate` refuses it.
        task = config.task.learn(source, train, {name: validation})
        notes.append(f"going on, but: {error}")
    reader = task.reader(source, np.concatenate([train, validation]))
    views = tuple(side.manifest.split(config.train_split).views for side in source.sides)
    return FitData(source, task, train, views, validation, name, reader, tuple(notes))


def labelled(task: Task | TaskConfig, source: Any, split: str, notes: list[str]) -> np.ndarray:
    """The samples of a split whose target is known; what is left out is noted.

    Raises:
        CacheError: There is no such split, or nothing of it is finished.
        TargetError: The target does not suit the task, or none of the samples has one.
    """
    samples: np.ndarray = source.split(split)
    missing = task.unlabelled(source, samples)
    if not missing.any():
        return samples
    assert not isinstance(task, RetrievalConfig), "pairs have no labels"
    if missing.all():
        raise TargetError(
            f"target {task.target!r}: none of the {len(samples):,} samples of split {split!r} has "
            "one. Choose another target or split."
        )
    notes.append(
        f"split {split!r}: {int(missing.sum()):,} of {len(samples):,} samples left out, "
        f"because they have no {task.target!r}"
    )
    known: np.ndarray = samples[~missing]
    return known


def _divide(
    config: FitConfig, source: Any, train: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, np.ndarray, str, np.ndarray]:
    """Training samples, validation samples, what to call the latter, and which could not be any."""
    split = config.validation.split
    if split is None and "validation" in source.split_names:
        split = "validation"
    if split == config.train_split:
        raise ConfigError(
            "validation.split", [f"is {split!r} like train_split. Leave it out to hold out a part"]
        )
    if split is not None:
        return train, labelled(config.task, source, split, notes), split, train[:0]
    name = f"{100 * config.validation.fraction:.3g}% held out of {config.train_split}"
    # All texts of an item are held out together: it would be known from training otherwise.
    numbers, group = np.unique(train.reshape(len(train), -1)[:, 0], return_inverse=True)
    if len(numbers) < 2:
        return train, train[:0], name, train[:0]
    chosen = held_out(len(numbers), config.validation.fraction)[group]
    # A label of held-out samples only cannot be learned: those samples stay in training.
    positions = np.flatnonzero(chosen)
    kept = positions[config.task.unlearnable(source, train[~chosen], train[chosen])]
    chosen[kept] = False
    return train[~chosen], train[chosen], name, train[kept]


def _how_to_validate(
    config: FitConfig,
    source: Any,
    train: np.ndarray,
    validation: np.ndarray,
    kept: np.ndarray,
    needed: int,
) -> str:
    """What gives more validation samples.

    Args:
        config: Of the run.
        source: The cache.
        train: Samples.
        validation: Too few samples.
        kept: Those that were held out at first and are trained on, because of their labels.
        needed: How many would do.
    """
    if config.validation.split is not None or "validation" in source.split_names:
        return "Extract more, or choose another split: --set validation.split=NAME"
    if len(kept):
        assert not isinstance(config.task, RetrievalConfig), "pairs have no labels"
        column = label_column(source, config.task.target)
        all_codes, others = (
            Labels.of(column, samples).codes for samples in (train, np.setdiff1d(train, kept))
        )
        rare = np.setdiff1d(Labels.of(column, kept).codes, others)
        names = ", ".join(map(repr, label_names(column, rare[:5])))
        repeated = len(np.unique(all_codes)) < len(all_codes)
        fraction = f"--set validation.fraction={min(0.5, 2 * config.validation.fraction):g}"
        instead = f"hold out more: {fraction}" if repeated else "choose a target of such labels"
        return (
            f"{name_samples(kept).capitalize()} stayed in training, because no other has their "
            f"label(s) {names}{' ...' if len(rare) > 5 else ''}. Add samples, so that labels "
            f"repeat, or {instead}"
        )
    total = len(train) + len(validation)
    if total < 2 * needed:
        return "Extract more"
    return f"Hold out more: --set validation.fraction={math.ceil(100 * needed / total) / 100:g}"


def _notes(source: Source) -> list[str]:
    if isinstance(source, FeatureCache):
        return []
    return [
        f"split {split!r}: {count:,} texts left out, because their item could not be read"
        for split, count in source.left_out.items()
        if count
    ]
