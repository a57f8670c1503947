"""Replays BertAdam, MDETR's schedule and its average of weights."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from trainer.optim import BertAdam, WeightAverage, schedules

from .base import GoldenFile, Kind, Replay


def replay_bert_adam(golden: GoldenFile) -> Replay:
    meta = golden.meta
    decays = meta["weight_decay"]
    parameters = [nn.Parameter(golden.tensor(f"initial.{i}")) for i in range(len(decays))]
    optimizer = BertAdam(
        [
            {"params": [parameter], "weight_decay": decay}
            for parameter, decay in zip(parameters, decays, strict=True)
        ],
        lr=meta["lr"],
        betas=tuple(meta["betas"]),
        eps=meta["eps"],
        max_grad_norm=meta["max_grad_norm"],
    )
    factor = partial(schedules.bert_cosine, num_steps=meta["t_total"], warmup=meta["warmup"])
    schedule = LambdaLR(optimizer, factor)
    path: list[list[torch.Tensor]] = [[] for _ in parameters]
    rates = []
    for step in range(meta["steps"]):
        for i, parameter in enumerate(parameters):
            parameter.grad = golden.tensor(f"grads.{i}")[step].clone()
        nn.utils.clip_grad_norm_(parameters, meta["global_clip_before_step"])
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
        for i, parameter in enumerate(parameters):
            path[i].append(parameter.detach().clone())
    return Replay(
        outputs={
            **{f"trajectory.{i}": torch.stack(values) for i, values in enumerate(path)},
            "reported_lr_after_step": np.array(rates),
        }
    )


def replay_schedule_and_average(golden: GoldenFile) -> Replay:
    meta = golden.meta
    factors = [
        schedules.step_decay(epoch, every=meta["lr_drop"]) for epoch in range(meta["epochs"])
    ]
    side = meta["lr"] * np.array(factors)
    module = nn.Linear(2, 2, bias=False)
    module.weight = nn.Parameter(golden.tensor("ema_initial_weight"))
    average = WeightAverage(module, meta["ema_decay"])
    path = []
    for weight in golden.tensor("weights"):
        module.weight = nn.Parameter(weight)
        average.update(module)
        path.append(average.state_dict()["weight"].clone())
    return Replay(
        outputs={
            "lr_side_and_other_per_epoch": np.stack([side, 0.1 * side], axis=1),
            "ema_trajectory": torch.stack(path),
        }
    )


KINDS: dict[str, Kind] = {
    "clip4clip_bertadam": replay_bert_adam,
    "mdetr_schedule_ema": replay_schedule_and_average,
}
