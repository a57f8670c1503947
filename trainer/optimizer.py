"""The optimizer of a run, from its settings."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from .config import OptimizerConfig
from .errors import ConfigError
from .optim import BertAdam, freeze, parameter_groups

_ADAMW_BETAS, _ADAMW_EPS = (0.9, 0.999), 1e-8  # torch's own
_BERT_BETAS, _BERT_EPS, _BERT_CLIP = (0.9, 0.98), 1e-6, 1.0  # CLIP4Clip's recipe


def freeze_parameters(module: nn.Module, config: OptimizerConfig) -> None:
    """Stop the parameters that `freeze` names from being trained.

    Raises:
        ConfigError: A start fits no parameter, or nothing is left to train.
    """
    try:
        freeze(module, config.freeze)
    except ValueError as error:
        raise ConfigError("optimizer.freeze", [str(error)]) from error


def make_optimizer(
    module: nn.Module, learning_rate: float, config: OptimizerConfig, device: torch.device
) -> Optimizer:
    """An optimizer of the parameters that are trained; each group knows its `lr_factor`.

    Raises:
        ConfigError: A start in `lr_factors` fits no trained parameter.
    """
    try:
        groups = parameter_groups(
            module,
            lr=learning_rate,
            weight_decay=config.weight_decay,
            decay=config.decay,
            lr_factors=config.lr_factors,
        )
    except ValueError as error:
        raise ConfigError("optimizer.lr_factors", [str(error)]) from error
    if config.algorithm == "bertadam":
        clip = _BERT_CLIP if config.clip_each_norm is None else config.clip_each_norm
        return BertAdam(
            groups,
            learning_rate,
            betas=config.betas or _BERT_BETAS,
            eps=config.eps or _BERT_EPS,
            max_grad_norm=clip,
        )
    return torch.optim.AdamW(
        groups,
        lr=learning_rate,
        betas=config.betas or _ADAMW_BETAS,
        eps=config.eps or _ADAMW_EPS,
        # One pass over all parameters instead of one kernel each.
        fused=device.type in ("cpu", "cuda"),
    )
