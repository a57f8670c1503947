"""All settings of one training run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from .networks import NetworkConfig, UniPTConfig
from .optim import DecayRule
from .pooling import PoolingName
from .settings import Settings
from .tasks import TaskConfig

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
PrecisionName = Literal["auto", "float32", "bfloat16", "float16"]


class OptimizerConfig(Settings):
    """AdamW."""

    learning_rates: tuple[float, ...] = Field(
        (5e-4,),
        min_length=1,
        description="peak rates; several train side by side from one stream of batches, and the "
        "best one becomes the run's model",
    )
    weight_decay: float = Field(0.01, ge=0, description="decoupled, per unit of learning rate")
    decay: DecayRule = Field(
        "weights",
        description="what decays. weights: matrices, so neither norms nor biases; all-but-biases "
        "and all: as in the paper's recipes",
    )
    betas: tuple[float, float] = Field(
        (0.9, 0.999), description="decay of the running mean and square of gradients, per step"
    )
    clip_norm: float | None = Field(
        1.0, gt=0, description="largest L2 norm of all gradients together; null: no clipping"
    )

    @field_validator("learning_rates", mode="before")
    @classmethod
    def _one_is_enough(cls, rates: object) -> object:
        return (rates,) if isinstance(rates, int | float | str) else rates

    @field_validator("learning_rates")
    @classmethod
    def _distinct_and_positive(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if any(rate <= 0 for rate in rates) or len(set(rates)) != len(rates):
            raise ValueError("needed different numbers above 0")
        return rates


class ScheduleConfig(Settings):
    """How the learning rate changes from step to step."""

    shape: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="shape after the warm-up; cosine and linear end at 0"
    )
    warmup: float = Field(
        0.1, ge=0, lt=1, description="share of all steps in which the rate rises from 0"
    )


class ValidationConfig(Settings):
    """What the best checkpoint is chosen on."""

    split: str | None = Field(
        None,
        description="split to validate on; null: `validation` if the cache has it, else a part "
        "of the training split is held out",
    )
    fraction: float = Field(
        0.1, gt=0, lt=1, description="share of the training split that is held out"
    )


class FitConfig(Settings):
    """One training run."""

    task: TaskConfig = Field(description="what is learned, from which target")
    network: NetworkConfig = Field(
        default_factory=UniPTConfig, description="side network that reads the hidden states"
    )
    pooling: PoolingName = Field(
        "mean", description="how the rows of a sample become one vector for the head"
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the pooled features dropped before the head"
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    validation: ValidationConfig = ValidationConfig()
    train_split: str = Field("train", description="split that is trained on")
    epochs: int = Field(5, gt=0, description="passes over the training samples")
    batch_size: int = Field(64, gt=0, description="samples of one step on one process")
    eval_batch_size: int = Field(256, gt=0, description="samples read at once in evaluation")
    early_stopping: int | None = Field(
        None,
        gt=0,
        description="stop after this many epochs in a row without a better validation metric",
    )
    checkpoint_every_steps: int | None = Field(
        None, gt=0, description="checkpoint every this many steps, besides every epoch's end"
    )
    seed: int = Field(0, ge=0, description="of the initial weights, the order and dropout")
    device: DeviceName = Field("auto", description="auto: the fastest there is")
    precision: PrecisionName = Field(
        "auto",
        description="of matrix products; weights and their updates are float32. auto: bfloat16 "
        "where the hardware gains from it, else float32",
    )


RESUMABLE_DIFFERENCES = frozenset({"device", "eval_batch_size", "checkpoint_every_steps"})
"""Settings that may differ on resume: none changes how the weights move from step to step."""
