"""All settings of one training run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from .networks import NetworkConfig, UniPTConfig
from .optim import DecayRule
from .pooling import PoolingName
from .settings import Settings
from .tasks import TaskConfig

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
PrecisionName = Literal["auto", "float32", "bfloat16", "float16"]


class OptimizerConfig(Settings):
    """How gradients move the weights."""

    algorithm: Literal["adamw", "bertadam"] = Field(
        "adamw",
        description="adamw, or bertadam: without bias correction, and with a clip of each tensor",
    )

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
    betas: tuple[float, float] | None = Field(
        None,
        description="decay of the running mean and square of gradients, per step; null: "
        "0.9 and 0.999 for adamw, 0.9 and 0.98 for bertadam",
    )
    eps: float | None = Field(
        None,
        gt=0,
        description="added to the root of the running square; null: 1e-8 for adamw, 1e-6 for "
        "bertadam",
    )
    clip_norm: float | None = Field(
        1.0, gt=0, description="largest L2 norm of all gradients together; null: no clipping"
    )
    clip_each_norm: float | None = Field(
        None,
        ge=0,
        description="largest L2 norm of each tensor's gradient, after clip_norm, of bertadam; "
        "null: 1; 0: no clipping",
    )
    lr_factors: dict[str, float] = Field(
        {},
        description="start of a parameter's name to what its learning rate is multiplied by; the "
        "longest start that fits counts",
    )
    freeze: tuple[str, ...] = Field(
        (), description="starts of the names of parameters that are not trained"
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="evaluate and keep a moving average of the weights: this share of the "
        "average stays at each step; null: the weights themselves",
    )

    @field_validator("learning_rates", mode="before")
    @classmethod
    def _one_is_enough(cls, rates: object) -> object:
        return (rates,) if isinstance(rates, int | float | str) else rates

    @field_validator("lr_factors")
    @classmethod
    def _factors_above_zero(cls, factors: dict[str, float]) -> dict[str, float]:
        if any(factor <= 0 for factor in factors.values()):
            raise ValueError("needed factors above 0 (optimizer.freeze stops parameters)")
        return factors

    @model_validator(mode="after")
    def _clips_each_only_in_bertadam(self) -> OptimizerConfig:
        if self.clip_each_norm is not None and self.algorithm != "bertadam":
            raise ValueError(
                f"clip_each_norm has no effect with algorithm {self.algorithm!r}, needed bertadam"
            )
        return self

    @field_validator("learning_rates")
    @classmethod
    def _distinct_and_positive(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if any(rate <= 0 for rate in rates) or len(set(rates)) != len(rates):
            raise ValueError("needed different numbers above 0")
        return rates


class ScheduleConfig(Settings):
    """How the learning rate changes from step to step."""

    shape: Literal["cosine", "linear", "constant", "step", "multi-step", "bert-cosine"] = Field(
        "cosine",
        description="shape after the warm-up. cosine and linear end at 0; step falls after every "
        "`every` epochs, multi-step after each of `milestones`; bert-cosine: a cosine over all "
        "steps, whose first ones are replaced by the warm-up",
    )
    warmup: float = Field(
        0.1, ge=0, lt=1, description="share of all steps in which the rate rises from 0"
    )
    milestones: tuple[int, ...] = Field(
        (), description="numbers of epochs after which a multi-step rate falls, ascending"
    )
    every: int | None = Field(
        None, gt=0, description="number of epochs after which a step rate falls, again and again"
    )
    gamma: float = Field(
        0.1, gt=0, le=1, description="what a step or multi-step rate is multiplied by at each fall"
    )

    @field_validator("milestones")
    @classmethod
    def _ascending(cls, epochs: tuple[int, ...]) -> tuple[int, ...]:
        if any(epoch < 1 for epoch in epochs) or list(epochs) != sorted(set(epochs)):
            raise ValueError("needed ascending numbers of epochs from 1 on")
        return epochs

    @model_validator(mode="after")
    def _falls_as_told(self) -> ScheduleConfig:
        told = {"milestones": bool(self.milestones), "every": self.every is not None}
        for name, shape in (("milestones", "multi-step"), ("every", "step")):
            if told[name] != (self.shape == shape):
                raise ValueError(
                    f"shape is {self.shape!r} {'with' if told[name] else 'without'} {name}, "
                    f"needed {name} with {shape!r} and only there"
                )
        if self.gamma != 0.1 and not any(told.values()):
            raise ValueError(f"gamma has no effect with shape {self.shape!r}, which never falls")
        return self


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
    pooling: PoolingName | None = Field(
        None,
        description="how the rows of a sample become one vector for the head; null: as the task "
        "usually does, the first one for vqa and the mean for others",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the pooled features dropped before the head"
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    validation: ValidationConfig = ValidationConfig()
    train_split: str = Field("train", description="split that is trained on")
    epochs: int = Field(5, gt=0, description="passes over the training samples")
    batch_size: int = Field(64, gt=0, description="samples read at once on one process")
    accumulate: int = Field(
        1, gt=0, description="batches on each process whose gradients make one step together"
    )
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

    @model_validator(mode="after")
    def _pooled_where_pooling_is_set(self) -> FitConfig:
        if self.pooling is not None and self.task.usual_pooling is None:
            raise ValueError(f"pooling has no effect with task {self.task.name!r}")
        return self


RESUMABLE_DIFFERENCES = frozenset({"device", "eval_batch_size", "checkpoint_every_steps"})
"""Settings that may differ on resume: none changes how the weights move from step to step."""
