"""The learning rate of a step, as a function of numbers: nothing to save, nothing to restore."""

from __future__ import annotations

from .config import ScheduleConfig
from .optim import schedules


def rate_factor(config: ScheduleConfig, step: int, num_steps: int) -> float:
    """What the peak learning rate is multiplied by in a step, 0 to 1. Steps count from 0."""
    num_warmup = round(config.warmup * num_steps)
    if config.shape == "cosine":
        return schedules.cosine(step, num_steps=num_steps, num_warmup=num_warmup)
    if config.shape == "linear":
        return schedules.linear(step, num_steps=num_steps, num_warmup=num_warmup)
    return min(1.0, step / num_warmup) if num_warmup else 1.0
