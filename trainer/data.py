"""Which samples a run trains and validates on, and what their targets are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cache_schema import FeatureCache

from .config import FitConfig
from .errors import ConfigError
from .order import held_out
from .tasks import TargetReader, Task


@dataclass(frozen=True)
class FitData:
    """The samples of one run.

    Attributes:
        task: Has seen the training targets.
        train: Sample numbers that are trained on.
        validation: Sample numbers that the best checkpoint is chosen on.
        validation_name: The split's name, or a phrase that says what was held out.
        read_targets: Of both.
    """

    task: Task
    train: np.ndarray
    validation: np.ndarray
    validation_name: str
    read_targets: TargetReader


def open_data(config: FitConfig, cache: FeatureCache, world_size: int) -> FitData:
    """Divide the samples and learn the task's classes or scale.

    Raises:
        CacheError: A split or the target is not in the cache.
        ConfigError: Training and validation share samples, or have too few.
        TargetError: The target does not suit the task.
    """
    train = cache.split(config.train_split)
    train, validation, name = _divide(config, cache, train)
    # Ranks read equal parts, and correlations need two samples.
    needed = max(2, world_size)
    for split, samples in ((config.train_split, train), (name, validation)):
        if len(samples) < needed:
            raise ConfigError(
                f"split {split!r}",
                [f"has {len(samples)} sample(s), needed at least {needed}. Extract more"],
            )
    others = {name: validation}
    for spec in cache.manifest.splits:
        if spec.name not in (config.train_split, name):
            samples = np.arange(spec.start, spec.stop)
            others[spec.name] = samples[cache.finished_samples[samples]]
    task = config.task.learn(cache, train, others)
    reader = task.reader(cache, np.concatenate([train, validation]))
    return FitData(task, train, validation, name, reader)


def _divide(
    config: FitConfig, cache: FeatureCache, train: np.ndarray
) -> tuple[np.ndarray, np.ndarray, str]:
    """Training samples, validation samples, and what to call the latter."""
    split = config.validation.split
    if split is None and "validation" in cache.manifest.split_names:
        split = "validation"
    if split == config.train_split:
        raise ConfigError(
            "validation.split", [f"is {split!r} like train_split. Leave it out to hold out a part"]
        )
    if split is not None:
        return train, cache.split(split), split
    name = f"{config.validation.fraction:.0%} held out of {config.train_split}"
    if len(train) < 2:
        return train, train[:0], name
    chosen = held_out(len(train), config.validation.fraction)
    # A label of held-out samples only cannot be learned: those samples stay in training.
    positions = np.flatnonzero(chosen)
    chosen[positions[config.task.unlearnable(cache, train[~chosen], train[chosen])]] = False
    return train[~chosen], train[chosen], name
