"""Learning rate factors as functions of the step, for `torch.optim.lr_scheduler.LambdaLR`.

Steps count from 0. `functools.partial` fixes the other arguments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def multi_step(step: int, *, milestones: Sequence[int], gamma: float = 0.1) -> float:
    """1, times gamma from each milestone on. VSE-infinity: 0.1 from epoch 15."""
    return gamma ** sum(step >= milestone for milestone in milestones)


def step_decay(step: int, *, every: int, gamma: float = 0.1) -> float:
    """1, times gamma after every so many steps. MDETR: 0.1 after every 5 epochs."""
    return float(gamma ** (step // every))


def linear(step: int, *, num_steps: int, num_warmup: int = 0) -> float:
    """From 0 up to 1 over the warm-up, then in a straight line to 0 at the end. CLIP-ViL: 5 %."""
    if step < num_warmup:
        return step / num_warmup
    return max(0.0, (num_steps - step) / max(1, num_steps - num_warmup))


def cosine(step: int, *, num_steps: int, num_warmup: int = 0) -> float:
    """From 0 up to 1 over the warm-up, then down half a cosine to 0 at the end."""
    if step < num_warmup:
        return step / num_warmup
    progress = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
    return 0.5 * (1 + math.cos(math.pi * progress))


def bert_cosine(step: int, *, num_steps: int, warmup: float = 0.1) -> float:
    """The cosine of BertAdam, which runs over all steps and not only those after the warm-up.

    At the end of the warm-up the factor falls from 1 to 0.976, and past the last step it rises
    again, both as released (CLIP4Clip: warmup 0.1 of the steps). The first step has factor 0.
    """
    progress = step / num_steps
    if progress < warmup:
        return progress / warmup
    return 0.5 * (1 + math.cos(math.pi * progress))
