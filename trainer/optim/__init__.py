"""Optimizers, learning rate schedules and weight averages of the paper's recipes."""

from . import schedules
from .bert_adam import BertAdam
from .ema import WeightAverage
from .groups import DecayRule, freeze, parameter_groups

__all__ = ["BertAdam", "DecayRule", "WeightAverage", "freeze", "parameter_groups", "schedules"]
