"""Why a loss or gradient is not finite: looks for the first place that is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass

import torch
from torch import Tensor, nn

from cache_schema import FeatureBatch, StreamSpec

from .sources import Batch
from .tasks import Moment, Task


@dataclass(frozen=True)
class Cause:
    """The first thing that is not finite.

    Attributes:
        text: What it is, and what to do.
        is_input: Whether it came with the batch, so that no setting of the optimizer helps.
        is_local: Whether it shows in this batch; else another batch of the step, or another
            process, is at fault.
    """

    text: str
    is_input: bool
    is_local: bool = True


def find_cause(
    model: nn.Module,
    task: Task,
    batch: Batch,
    sides: Sequence[Sequence[StreamSpec]],
    moment: Moment,
) -> Cause:
    """Look at inputs, then weights, then every module's output, then gradients."""
    for part, streams in zip(batch.sides, sides, strict=True):
        for found in _bad_inputs(part, streams):
            return Cause(found, is_input=True)
    for name, target in batch.targets.items():
        if not _is_finite(target):
            return Cause(f"target {name!r} is not finite", is_input=True)
    advice = "Lower the learning rate (--lr), or raise schedule.warmup."
    for name, parameter in model.named_parameters():
        if not _is_finite(parameter):
            return Cause(f"the weights of {name!r} are no longer finite. {advice}", is_input=False)
    module, loss = _first_bad_output(model, task, batch, moment)
    if module is not None:
        return Cause(f"the output of {module!r} is not finite. {advice}", is_input=False)
    model.zero_grad(set_to_none=True)
    loss.backward()
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not _is_finite(parameter.grad):
            return Cause(f"the gradient of {name!r} is not finite. {advice}", is_input=False)
    text = f"the loss over all processes is not finite. {advice}"
    return Cause(text, is_input=False, is_local=False)


def _bad_inputs(batch: FeatureBatch, streams: Sequence[StreamSpec]) -> Iterator[str]:
    for spec in streams:
        stream = batch.streams[spec.name]
        for position, layer in enumerate(spec.layers):
            bad = ~stream.values[:, position].isfinite().all(dim=1)
            if bad.any():
                sample = batch.sample_ids[stream.layout.sample_of_row()[bad][0]]
                yield (
                    f"the hidden states of layer {layer.index} ({layer.module}) in stream "
                    f"{spec.name!r} are not finite in {str(stream.values.dtype)[6:]}, first in "
                    f"sample {int(sample)}. Run `unipt verify` on the cache; if it is intact, use "
                    "--precision bfloat16 or float32"
                )


def _first_bad_output(
    model: nn.Module, task: Task, batch: Batch, moment: Moment
) -> tuple[str | None, Tensor]:
    """The first module in the order of computation whose output is not finite, and the loss."""
    found: list[str] = []

    def watch(name: str, output: object) -> None:
        if not found and not all(_is_finite(tensor) for tensor in _tensors(output)):
            found.append(name)

    handles = [
        module.register_forward_hook(lambda _m, _i, output, name=name: watch(name, output))
        for name, module in model.named_modules()
    ]
    try:
        loss = task.loss(model(batch), batch.targets, moment)
    finally:
        for handle in handles:
            handle.remove()
    return (found[0] or "model" if found else None), loss


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _tensors(part)
    elif is_dataclass(output):
        for field in fields(output):
            yield from _tensors(getattr(output, field.name))


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
