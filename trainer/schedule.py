"""The learning rate of a step, as a function of numbers: nothing to save, nothing to restore."""

from __future__ import annotations

from .config import ScheduleConfig
from .optim import schedules


def rate_factor(config: ScheduleConfig, step: int, num_steps: int, epoch_steps: int) -> float:
    """What the peak learning rate is multiplied by in a step, 0 to 1.

    Args:
        config: The shape.
        step: From 0.
        num_steps: Of the whole run.
        epoch_steps: Of one epoch; the falls of `step` and `multi-step` are told in epochs.
    """
    num_warmup = round(config.warmup * num_steps)
    if config.shape == "cosine":
        return schedules.cosine(step, num_steps=num_steps, num_warmup=num_warmup)
    if config.shape == "linear":
        return schedules.linear(step, num_steps=num_steps, num_warmup=num_warmup)
    if config.shape == "bert-cosine":
        return schedules.bert_cosine(step, num_steps=num_steps, warmup=config.warmup)
    factor = min(1.0, step / num_warmup) if num_warmup else 1.0
    if config.shape == "multi-step":
        starts = [epoch * epoch_steps for epoch in config.milestones]
        return factor * schedules.multi_step(step, milestones=starts, gamma=config.gamma)
    if config.every is not None:
        steps = config.every * epoch_steps
        return factor * schedules.step_decay(step, every=steps, gamma=config.gamma)
    return factor
